"""Laws of a recipe's cost: the check values, before any run, without memory for weights."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from lsqctl.cli.app import app
from lsqctl.errors import DataError
from lsqctl.models.factory import build_on_meta
from lsqctl.recipe import Recipe
from lsqctl.recipe_file import find_parent
from lsqctl.services.cost import recipe_cost
from lsqctl.settings import load_settings
from tests.conftest import fewer


def cost(name):
    return recipe_cost(find_parent(name).cells[0].recipe, load_settings()).cost


@pytest.mark.parametrize(
    ("name", "gmac", "megabytes", "gbops"),
    [
        ("imagenet/preact-resnet18-lsq-w2a2", 1.814, None, 14.4),
        ("imagenet/resnet18-w4a4", 1.814, 6.143, 34.7),
        ("imagenet/resnet50-w3a4", 4.089, 11.066, None),
        ("imagenet/resnet50-w4a4", 4.089, 13.997, 71.2),
        ("cifar10/resnet20-w4a4", 0.041, 0.140, None),
    ],
)
def test_bundled_recipes_cost_what_was_worked_out(name, gmac, megabytes, gbops):
    found = cost(name)
    assert round(found.macs / 1e9, 3) == gmac
    assert megabytes in (None, round(found.size_bytes / 1e6, 3))
    assert gbops in (None, round(found.bops / 1e9, 1))


@pytest.mark.parametrize(
    "name", fewer(["vgg16_bn", "squeezenext23_2x", "regnet_y_400mf", "inception_v3"], 1)
)
def test_macs_are_half_of_what_torchs_counter_finds(name):
    size = 299 if name == "inception_v3" else 224
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "model": {"name": name},
            "data": {"name": "imagenet", "crop": size, "resize": size},
            "quant": {"weight_bits": 4, "act_bits": 4},
        }
    )
    model = build_on_meta(name, num_classes=1000, in_channels=3, image_size=size)
    assert all(one.is_meta for one in model.parameters())
    with FlopCounterMode(display=False) as flops, torch.device("meta"), torch.no_grad():
        model.to("meta").eval()(torch.empty(1, 3, size, size))
    found = recipe_cost(recipe, load_settings()).cost
    assert found.macs == flops.get_total_flops() // 2
    assert sum(layer.macs for layer in found.layers) == found.macs
    assert sum(layer.size_bytes for layer in found.layers) == found.size_bytes


def test_a_folders_classes_are_counted_and_otherwise_assumed(tmp_path):
    recipe = Recipe.model_validate(
        {"name": "x", "model": {"name": "resnet18"}, "data": {"name": "imagefolder"}}
    )
    settings = load_settings(data_dir=tmp_path)
    assumed = recipe_cost(recipe, settings)
    assert (assumed.classes, assumed.classes_source) == (1000, "assumed")
    for name in ("cat", "dog"):
        (tmp_path / "imagefolder" / "train" / name).mkdir(parents=True)
    counted = recipe_cost(recipe, settings)
    assert (counted.classes, counted.classes_source) == (2, "folder")
    assert assumed.cost.params - counted.cost.params == 998 * 513


def test_a_network_that_cannot_take_the_images_says_so():
    recipe = Recipe.model_validate(
        {"name": "x", "model": {"name": "vit_b_16"}, "data": {"name": "digits"}}
    )
    with pytest.raises(DataError, match="vit_b_16 cannot take images of 8 pixels"):
        recipe_cost(recipe, load_settings())


def test_show_tells_the_cost_in_all_and_layer_by_layer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["recipe", "show", "digits/resnet8-w4a4"]
    data = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    whole, layers = data["cost"], data["cost"]["layers"]
    assert data["cells"][0]["cost"] == whole
    assert (whole["input_shape"], whole["classes"], whole["classes_source"]) == (
        *([1, 8, 8], 10, "dataset"),
    )
    for key in ("size_bytes", "macs", "bops", "params"):
        assert sum(layer[key] for layer in layers) == whole[key] > 0
    assert [layer["weight_bits"] for layer in layers[:2]] == [8, 4]
    told = CliRunner().invoke(app, words).stdout.splitlines()[-1]
    assert told.startswith(f"# cost: {whole['size_bytes'] / 1000:.1f} kB (naive ")
    assert told.endswith("BOP for 1x8x8 and 10 classes")
