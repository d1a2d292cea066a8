"""A recipe for every cell of the paper's tables, for Adlik's rows, and for CIFAR-10."""

from __future__ import annotations

import pytest

from lsqctl.recipe import RunRef
from lsqctl.recipe_file import find_parent, load
from lsqctl.services.diff import diff_recipes
from lsqctl.settings import load_settings

# Table 1: the network of each line, what a recipe calls it, and where its recipes lie
TABLE_1 = {
    "ResNet-18": ("preact_resnet18", "imagenet/preact-resnet18"),
    "ResNet-34": ("preact_resnet34", "imagenet/preact-resnet34"),
    "ResNet-50": ("preact_resnet50", "imagenet/preact-resnet50"),
    "ResNet-101": ("preact_resnet101", "imagenet/preact-resnet101"),
    "ResNet-152": ("preact_resnet152", "imagenet/preact-resnet152"),
    "VGG-16bn": ("vgg16_bn", "imagenet/vgg16-bn"),
    "SqueezeNext-23-2x": ("squeezenext23_2x", "imagenet/squeezenext23-2x"),
}
DISTILLED = ("ResNet-18", "ResNet-34", "ResNet-50")
SAME_TEACHER = {
    "hard_weight": 1.0,
    "soft_weight": 1.0,
    "temperature": 1.0,
    "teacher_model": None,
    "cache": False,
    "features": None,
}


def cell(name):
    """Return the one recipe of this name, a file's or a cell's."""
    (found,) = find_parent(name).cells
    return found.recipe


def deviations(name):
    (found,) = diff_recipes(name, None, load_settings())
    return {one.key: one.left for one in found.deviations}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("net", TABLE_1)
def test_every_cell_of_table_1_has_a_recipe_that_is_the_papers(net, bits):
    model, place = TABLE_1[net]
    recipe = cell(f"{place}-lsq-w{bits}a{bits}")
    assert (recipe.model.name, recipe.data.name) == (model, "imagenet")
    assert (recipe.quant.weight_bits, recipe.quant.act_bits) == (bits, bits)
    assert recipe.model.weights == RunRef(run=f"{place}-fp32")
    assert deviations(recipe.name) == {}


@pytest.mark.parametrize("net", TABLE_1)
def test_every_network_of_table_1_is_trained_in_full_precision_first(net):
    model, place = TABLE_1[net]
    recipe = cell(f"{place}-fp32")
    assert (recipe.model.name, recipe.model.weights) == (model, None)
    assert deviations(recipe.name) == {}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("net", DISTILLED)
def test_every_cell_of_the_distillation_table_has_a_recipe(net, bits):
    model, place = TABLE_1[net]
    recipe = cell(f"{place}-lsq-distill-w{bits}a{bits}")
    assert recipe.model.name == model
    assert recipe.distill.teacher == recipe.model.weights == RunRef(run=f"{place}-fp32")
    assert recipe.distill.model_dump(exclude={"teacher"}) == SAME_TEACHER
    assert all(key.startswith("distill.") for key in deviations(recipe.name))


def test_the_row_resnet50_w4a4_of_the_paper_is_the_cell_of_table_1():
    alone, listed = cell("imagenet/preact-resnet50-w4a4"), cell("imagenet/preact-resnet50-lsq-w4a4")
    same = {"name", "description"}
    assert alone.model_dump(exclude=same) == listed.model_dump(exclude=same)


@pytest.mark.parametrize(("bits", "lr"), [(4, 8 * 0.00125), (3, 8 * 0.001)])
def test_adliks_rows_hold_what_was_read_of_them(bits, lr):
    recipe = cell(f"imagenet/adlik-resnet50-w{bits}a4")
    assert (recipe.model.name, recipe.quant.weight_bits, recipe.quant.act_bits) == (
        *("resnet50", bits, 4),
    )
    assert (recipe.train.epochs, recipe.train.lr, recipe.train.weight_decay) == (50, lr, 1e-4)
    assert (recipe.data.batch_size, recipe.train.schedule) == (8 * 32, "cosine")
    distill = recipe.distill
    assert (distill.hard_weight, distill.soft_weight, distill.temperature) == (0.3, 0.7, 1.0)
    assert (recipe.quant.per_channel, recipe.quant.residual_bits) == (False, 4)
    start = cell(recipe.model.weights.run)
    assert (start.train.epochs, start.distill.teacher_model) == (720, "timm/resnet50d")


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("depth", [20, 32, 56])
@pytest.mark.parametrize("way", ["lsq", "lsq-distill", "scratch-lsq"])
def test_cifar10_has_each_depth_and_precision_with_and_without_a_teacher(depth, bits, way):
    cells = find_parent(f"cifar10/resnet{depth}-{way}-w{bits}a{bits}").cells
    recipe = cells[0].recipe
    assert (recipe.model.name, recipe.data.name) == (f"cifar_resnet{depth}", "cifar10")
    assert (recipe.quant.weight_bits, recipe.quant.act_bits) == (bits, bits)
    if way == "lsq-distill":
        assert recipe.distill.teacher == recipe.model.weights
        assert recipe.distill.model_dump(exclude={"teacher"}) == SAME_TEACHER
    else:
        assert recipe.distill is None


@pytest.mark.parametrize("depth", [20, 32, 56])
def test_a_chain_that_begins_with_nothing_needs_no_file(depth):
    for one in load(f"cifar10/resnet{depth}-scratch-lsq").cells:
        start = cell(one.recipe.model.weights.run)
        assert start.input_refs() == {}
        assert start.data.normalize == one.recipe.data.normalize


def test_the_ladder_goes_down_from_full_precision_one_rung_at_a_time():
    bits, teachers = [], set()
    recipe = cell("cifar10/resnet20-ladder-w2a2")
    while isinstance(recipe.model.weights, RunRef):
        bits.append(recipe.quant.weight_bits)
        teachers.add(recipe.distill.teacher)
        recipe = find_parent(recipe.model.weights.run).cells[0].recipe
    assert (bits, recipe.quant.weight_bits) == ([2, 3, 4], 32)
    assert teachers == {RunRef(run=recipe.name)}
