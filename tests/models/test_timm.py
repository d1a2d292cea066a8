"""Laws of timm/NAME: a name only, no download, every weight quantized or named as left."""

from __future__ import annotations

import sys

import pytest
import torch
from pydantic import ValidationError

from lsqctl.errors import DataError, NotFound
from lsqctl.models.factory import build_model
from lsqctl.quant import (
    QuantSpec,
    calibrate,
    prepare,
    quantized_layers,
    quantizers,
    unquantized_layers,
)
from lsqctl.recipe import Recipe
from lsqctl.recipe_file import load
from lsqctl.services.submit import plan_submit
from lsqctl.settings import load_settings
from lsqctl.training.weights import load_weights

try:
    import timm
except ImportError:
    timm = None
needs_timm = pytest.mark.skipif(timm is None, reason="timm is not installed: lsqctl[timm]")
W4A4 = QuantSpec(weight_bits=4, act_bits=4)
# timm's smallest of each kind: plain, depthwise with squeeze-excite, attention by module, by
# function (Swin V2, BEiT, EVA), "same" padding, its own Linear
NETS = {
    "resnet10t": 64,
    "efficientnet_lite0": 64,
    "mobilenetv3_small_050": 64,
    "tf_mobilenetv3_small_minimal_100": 64,
    "vit_tiny_patch16_224": 32,
    "convnext_atto": 64,
}
BY_FUNCTION = {
    "swinv2_tiny_window8_256": {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1)},
    "beit_base_patch16_224": {"img_size": 32, "embed_dim": 48, "depth": 1, "num_heads": 3},
    "eva02_tiny_patch14_224": {"img_size": 28, "depth": 1},
}


def recipe(model, **more):
    return Recipe.model_validate(
        {"name": "x", "model": {"name": model, **more}, "data": {"name": "imagenet"}}
    )


def test_a_name_of_timm_is_taken_as_it_is_and_no_path_or_tag():
    assert recipe("timm/resnet50d").model.name == "timm/resnet50d"
    for bad in ("timm/", "timm/resnet50d.ra2_in1k", "timm/a/b", "timm/../x", "timm.resnet50d"):
        with pytest.raises(ValidationError, match=r"timm/NAME|not one of the choices"):
            recipe(bad)


def test_without_timm_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DataError) as caught:
        build_model("timm/resnet50d", num_classes=5)
    assert str(caught.value) == "timm/resnet50d needs timm: pip install 'lsqctl[timm]'"


@needs_timm
def test_a_misspelled_name_gets_the_nearest():
    with pytest.raises(NotFound, match=r"no network `resnet50dd`; did you mean `timm/resnet50d`"):
        build_model("timm/resnet50dd", num_classes=5)


@needs_timm
def test_submitting_finds_a_misspelled_name(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("model: {name: timm/resnet10tt}\ndata: {name: digits}\n")
    with pytest.raises(NotFound, match="did you mean `timm/resnet10t`"):
        plan_submit([str(path)], settings=load_settings(home=tmp_path), store=None)


@needs_timm
@pytest.mark.parametrize("name", NETS)
@pytest.mark.filterwarnings("ignore:.* in float:UserWarning")  # timm's own convolutions are named
def test_every_weight_is_quantized_or_named(name):
    torch.manual_seed(0)
    model = build_model(f"timm/{name}", num_classes=7, image_size=NETS[name])
    images = torch.randn(2, 3, NETS[name], NETS[name])
    assert model.eval()(images).shape == (2, 7)
    prepare(model, W4A4)
    calibrate(model, images)  # raises where a quantized layer is passed by
    assert all(one.calibrated for one in quantizers(model).values())
    assert unaccounted(model) == []


def unaccounted(model):
    """Return the matrices and kernels that are neither quantized nor in a layer named as left."""
    taken = {id(layer.master_weight) for layer in quantized_layers(model).values()}
    left = [model.get_submodule(name) for name in unquantized_layers(model)]
    named = {id(one) for layer in left for one in layer.parameters()}
    tables = ("pos_embed", "cls_token", "relative_position_bias_table", "logit_scale", "gamma")
    return [
        name
        for name, one in model.named_parameters()
        if one.dim() > 1 and id(one) not in taken | named and not name.endswith(tables)
    ]


@needs_timm
@pytest.mark.parametrize("name", BY_FUNCTION)
def test_weights_that_attention_passes_to_a_function_are_quantized(name):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=7, **BY_FUNCTION[name]).eval()
    size = BY_FUNCTION[name]["img_size"]
    images = torch.randn(2, 3, size, size)
    before = model(images)
    prepare(model, W4A4)
    names = quantized_layers(model)
    assert any(one.endswith("attn.qkv") for one in names)
    assert any(one.endswith("attn.proj") for one in names)
    calibrate(model, images)
    assert not torch.equal(model(images), before)
    for layer in names.values():  # without the grids it computes what it did
        layer.input_quantizer = layer.weight_quantizer = None
    torch.testing.assert_close(model(images), before)


@needs_timm
def test_timms_own_linear_is_quantized_as_the_last_layer():
    model = prepare(build_model("timm/mobilenetv3_small_050", num_classes=7), W4A4)
    name, last = list(quantized_layers(model).items())[-1]
    assert name == "classifier"
    assert last.weight_quantizer.spec.bits == 8


@needs_timm
def test_weights_are_a_file(tmp_path):
    source = timm.create_model("resnet10t", pretrained=False, num_classes=7)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    model = build_model("timm/resnet10t", num_classes=7)
    load_weights(model, tmp_path / "w.pt", model_name="timm/resnet10t")
    assert torch.equal(model.conv1[0].weight, source.conv1[0].weight)


def test_weights_by_a_torchvision_name_are_refused():
    from lsqctl.services.recipe_inputs import resolve_torchvision_weights

    with pytest.raises(DataError, match=r"model\.weights: `IMAGENET1K_V1` is no file"):
        resolve_torchvision_weights("model.weights", "IMAGENET1K_V1", recipe("timm/resnet10t"))


@needs_timm
def test_adliks_recipes_name_networks_that_there_are():
    from lsqctl.services.recipe_inputs import check_timm_networks

    check_timm_networks(load("imagenet/adlik-resnet50-w4a4").cells[0])
