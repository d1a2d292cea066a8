"""The small MLP-Mixer: every layer with weights is quantized, and it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsqctl.errors import DataError
from lsqctl.events import Metric
from lsqctl.models.factory import build_model
from lsqctl.quant import QuantSpec, calibrate, prepare, quantized_layers, unquantized_layers
from lsqctl.recipe import Recipe
from lsqctl.training import ExecutionContext, finetune
from tests.training.small_world import declared


def test_it_has_the_size_that_its_docstring_says():
    model = build_model("mixer_cifar", num_classes=10, image_size=32)
    assert sum(weight.numel() for weight in model.parameters()) == 605_834
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_tokens_are_patches_of_the_image():
    """Two patches exchanged are two tokens exchanged: what the stem sees is one patch each."""
    model = build_model("mixer_cifar", num_classes=10, in_channels=1, image_size=8)
    seen = []
    model.stem.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    model(image)
    assert seen[0].shape == (1, 4, 16)
    assert torch.equal(seen[0][0, 1], image[0, 0, :4, 4:].flatten())


def test_every_linear_layer_is_quantized_and_gets_a_gradient():
    torch.manual_seed(0)
    model = build_model("mixer_cifar", num_classes=10, image_size=32)
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    model = prepare(model, QuantSpec(4, 4))
    images = torch.randn(4, 3, 32, 32)
    calibrate(model, images)
    assert sorted(quantized_layers(model)) == sorted(linear)
    assert unquantized_layers(model) == {}
    model(images).square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_images_that_no_patches_cover_are_refused():
    with pytest.raises(DataError, match=r"mixer_cifar cannot take images of 30 pixels: .* of 4"):
        build_model("mixer_cifar", num_classes=10, image_size=30)


@pytest.mark.slow
def test_it_trains_quantized(tmp_path):
    with declared():
        recipe = Recipe.model_validate(
            {
                "name": "x",
                "model": {"name": "mixer_cifar"},
                "data": {"name": "few_digits", "batch_size": 16, "pad": 0},
                "quant": {"weight_bits": 4, "act_bits": 4},
                "train": {"epochs": 3, "lr": 0.05},
            }
        )
        events = list(finetune(recipe, ExecutionContext(tmp_path, tmp_path)))
    losses = [event.value for event in events if isinstance(event, Metric) and event.name == "loss"]
    result = events[-1].evaluations[0]
    assert losses[-1] < losses[0]
    assert result.n_correct / result.n_total > 0.3  # guessing has 0.1
