"""Every model of a recipe can be built; the local ones have the public weights' names."""

import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from torch.overrides import TorchFunctionMode

from lsqctl.errors import DataError, NotFound
from lsqctl.models import MODELS
from lsqctl.models.factory import build_model, build_on_meta, package_of
from lsqctl.quant import QuantSpec, calibrate, prepare, quantized_layers, unquantized_layers
from lsqctl.quant.cost import model_cost
from tests.conftest import fewer


def test_the_registry_holds_every_torchvision_classifier():
    import torchvision.models

    assert set(torchvision.models.list_models(module=torchvision.models)) <= set(MODELS)


def test_it_is_told_which_networks_torchvision_builds():
    import torchvision.models

    own = sorted(set(MODELS) - set(torchvision.models.list_models()))
    size = {"num_classes": 10, "in_channels": 3, "image_size": 32}
    assert [package_of(build_on_meta(name, **size)) for name in own] == [""] * len(own)
    torchvisions = package_of(build_on_meta("mobilenet_v2", **size))
    assert torchvisions == f"torchvision {version('torchvision')}"


class _EmptyOnMeta(TorchFunctionMode):
    """Weights take no memory; RegNet's widths, which it computes with tensors, stay real."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.empty:
            kwargs = kwargs | {"device": "meta"}
        return function(*args, **kwargs)


@pytest.mark.parametrize("name", fewer(sorted(MODELS), 16))
@pytest.mark.filterwarnings("default")  # torchvision's own, about initializing on meta
def test_every_model_builds_with_the_classes_asked_for(name):
    with _EmptyOnMeta():
        model = build_model(name, num_classes=7)
    last = [one for one in model.modules() if isinstance(one, torch.nn.Linear | torch.nn.Conv2d)]
    assert any(getattr(one, "out_features", None) == 7 for one in last) or any(
        getattr(one, "out_channels", None) == 7 for one in last
    )


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32)])
def test_resnet8_takes_small_images(channels, size):
    model = build_model("resnet8", num_classes=10, in_channels=channels, image_size=size)
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 10)


def test_cifar_resnet20_has_the_size_and_the_names_of_the_public_one():
    model = build_model("cifar_resnet20", num_classes=10)
    assert sum(one.numel() for one in model.parameters()) == 269_722
    names = {name for name, _ in model.named_parameters()}
    assert {"conv1.weight", "bn1.bias", "layer2.0.conv1.weight", "layer3.2.bn2.weight"} <= names
    assert {"linear.weight", "linear.bias"} <= names
    assert not any("shortcut" in name for name in names)


def test_an_unknown_model_names_its_neighbour():
    with pytest.raises(NotFound, match="did you mean `resnet18`"):
        build_model("resnet_18", num_classes=10)


def test_a_model_that_cannot_take_the_images_says_so():
    with pytest.raises(DataError, match="vit_b_16 cannot take images of 8 pixels"):
        build_model("vit_b_16", num_classes=10, image_size=8)


@pytest.mark.slow
def test_training_the_digits_never_imports_torchvision_or_sklearn():
    probe = """
import sys, tempfile
from pathlib import Path
from lsqctl.recipe import Recipe
from lsqctl.training import ExecutionContext, finetune
recipe = Recipe.model_validate({"name": "x", "model": {"name": "resnet8"}, "data":
    {"name": "digits", "batch_size": 640}, "train": {"epochs": 1}})
with tempfile.TemporaryDirectory() as folder:
    list(finetune(recipe, ExecutionContext(Path(folder), Path(folder))))
print({"torchvision", "sklearn", "sqlalchemy", "pandas"} & set(sys.modules))
"""
    out = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=120
    )
    assert out.stdout.strip() == "set()"


def test_looking_for_data_needs_no_torch():
    probe = "import sys, lsqctl.datasets.presence; print({'torch', 'numpy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        # norms: 896 channels fewer than torchvision's resnet18, the convolutions are the same
        ("preact_resnet18", 11_689_512 - 2 * 896, 1_814_073_344),
        ("preact_resnet50", None, 4_089_184_256),
        ("squeezenext23_2x", 2_583_752, None),  # the public port's count
    ],
)
@pytest.mark.filterwarnings("default")
def test_the_papers_networks_cost_what_is_known_of_them(name, params, macs):
    model = build_model(name, num_classes=1000)
    cost = model_cost(model, (3, 224, 224))
    assert params in (None, cost.params)
    assert macs in (None, cost.macs)


@pytest.mark.parametrize(
    "name", fewer(["preact_resnet18", "preact_resnet50", "squeezenext23_2x"], 1)
)
def test_the_papers_networks_are_quantized_whole_and_train(name):
    torch.manual_seed(0)
    model = prepare(build_model(name, num_classes=5, in_channels=1), QuantSpec(2, 2))
    images = torch.randn(4, 1, 64, 64)
    calibrate(model, images)
    assert unquantized_layers(model) == {}
    model(images).sum().backward()
    assert all(one.grad is not None for one in model.parameters())
    inner = list(quantized_layers(model).values())[1:]
    assert not any(one.input_quantizer.signed for one in inner), "every input is after a ReLU"
