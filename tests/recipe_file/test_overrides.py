"""``quant.overrides``: their order counts, they survive every way out and in, cells have names."""

import json
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lsqctl.models import MODELS
from lsqctl.quant import LayerOverride
from lsqctl.quant.spec import ModelKeys
from lsqctl.recipe import (
    QuantSection,
    Recipe,
    fingerprint,
    is_valid_name,
    load_stored,
)
from lsqctl.recipe_file import dump, load
from lsqctl.recipe_file.keys import FIELDS, choices_of
from tests.conftest import fewer

from .conftest import MINIMAL

QUANT = MINIMAL + "quant:\n  weight_bits: 4\n  act_bits: 4\n"
GLOBS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
VALUES = st.fixed_dictionaries(
    {"weight_bits": st.sampled_from([2, 8, 32])},
    optional={
        "per_channel": st.booleans(),
        "act_signed": st.sampled_from(["auto", "signed"]),
        "percentile": st.just(99.5),
    },
)


def recipe(overrides):
    return Recipe.model_validate(
        {
            "name": "a",
            "model": {"name": "resnet18"},
            "data": {"name": "cifar10"},
            "quant": {"overrides": overrides},
        }
    )


def identity(one):
    return fingerprint(one, {}, with_seed=False)


@given(overrides=st.dictionaries(GLOBS, VALUES, max_size=3))
@settings(max_examples=25)
def test_overrides_come_back_in_their_order_from_yaml_and_from_sorted_json(
    tmp_path_factory, overrides
):
    written = recipe({g: v | {"per_channel": False} for g, v in overrides.items()})
    path = tmp_path_factory.mktemp("dump") / "a.yaml"
    path.write_text(dump(written), encoding="utf-8", newline="")
    stored = json.loads(json.dumps(written.model_dump(mode="json"), sort_keys=True))
    for found in (load(path).cells[0].recipe, load_stored(stored)):
        assert found == written
        assert list(found.quant.overrides) == list(overrides)
        assert identity(found) == identity(written)


def test_the_order_of_overrides_is_part_of_what_a_recipe_is():
    one, other = ("layer1.*", {"weight_bits": 8}), ("*.conv1", {"weight_bits": 2})
    assert identity(recipe(dict([one, other]))) != identity(recipe(dict([other, one])))


def test_a_recipe_without_overrides_has_the_hash_it_had_before_there_were_any():
    assert identity(recipe({})) == identity(load_stored(BEFORE)) == HASH_BEFORE


BEFORE = {"name": "a", "model": {"name": "resnet18"}, "data": {"name": "cifar10"}}
HASH_BEFORE = "7bbd2dbe99111a4705fea44926620023f4c23a7f5d3b55282cc5a4e4f7854086"


OTHER_VALUES = {bool: True, int: 3, float: 75.0}  # none is a default


def other_value(name):
    """Return a value of a quantizer's key that is not its default."""
    choices = choices_of(f"quant.{name}")
    return OTHER_VALUES.get(FIELDS[f"quant.{name}"].annotation) or choices[-1]


@pytest.mark.parametrize("name", [key.name for key in fields(ModelKeys)])
def test_every_key_that_the_library_declares_is_one_of_recipes_and_arrives_there(name):
    value = other_value(name)
    spec = QuantSection(**{name: value}).to_spec()
    assert getattr(spec, name) == value != QuantSection.model_fields[name].default
    assert FIELDS[f"quant.{name}"].description


@pytest.mark.parametrize("name", [key.name for key in fields(LayerOverride)])
def test_every_key_of_a_layer_may_be_overridden_and_arrives_there(name):
    value = other_value(name)
    quant = QuantSection(overrides={"conv1": {name: value}})
    assert quant.to_spec().overrides["conv1"].changes() == {name: value}
    with pytest.raises(ValidationError, match="extra_forbidden"):
        QuantSection(overrides={"conv1": {f"{name}s": value}})


def test_the_spec_has_every_override_in_its_order():
    quant = QuantSection(overrides={"b": {"weight_bits": 8}, "a": {"act_signed": "auto"}})
    assert dict(quant.to_spec().overrides) == {
        "b": LayerOverride(weight_bits=8),
        "a": LayerOverride(act_signed="auto"),
    }
    assert list(quant.to_spec().overrides) == ["b", "a"]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("{}", "uniform"),
        ('{"layer1.*": {weight_bits: 8, act_bits: 8}}', "layer1-w8a8"),
        ("{layer1.*: {weight_bits: 8}, fc: {act_bits: 32}}", "layer1-w8-fc-a32"),
        ('{"*.conv1": {per_channel: true}}', "conv1-per-channel-true"),
    ],
)
def test_a_cell_that_varies_overrides_is_named_after_them(folder, value, label):
    sweep = f"sweep: {{grid: {{quant.overrides: [{value}, {{q: {{weight_bits: 2}}}}]}}}}\n"
    assert [cell.label for cell in folder.load(QUANT + sweep).cells] == [label, "q-w2"]


def test_many_overrides_are_named_by_their_hash_and_their_order_counts(folder):
    globs = [f"layer{i}.0.conv{i}.*" for i in range(5)]
    values = [
        "{" + ", ".join(f"{glob}: {{weight_bits: 8}}" for glob in order) + "}"
        for order in (globs, globs[::-1])
    ]
    cells = folder.load(
        QUANT + f"sweep: {{grid: {{quant.overrides: [{', '.join(values)}]}}}}\n"
    ).cells
    assert len({cell.label for cell in cells}) == 2
    assert all(cell.label.startswith("overrides-") and is_valid_name(cell.label) for cell in cells)


def test_the_command_line_may_give_overrides(folder):
    given = folder.load(QUANT, sets=["quant.overrides={conv1: {weight_bits: 2}}"]).cells[0]
    assert given.recipe.quant.overrides["conv1"].weight_bits == 2


def test_a_child_replaces_the_overrides_of_its_base_as_a_whole(folder):
    folder.write(QUANT + "  overrides: {a: {weight_bits: 2}, b: {weight_bits: 2}}\n", "base.yaml")
    assert list(folder.load("extends: base.yaml\n").cells[0].recipe.quant.overrides) == ["a", "b"]
    child = folder.load("extends: base.yaml\nquant: {overrides: {c: {weight_bits: 3}}}\n")
    assert list(child.cells[0].recipe.quant.overrides) == ["c"]


MOBILE = "model: {name: mobilenet_v2}\ndata: {name: imagenet}\nquant: {weight_bits: 4, "


@pytest.mark.parametrize(
    ("text", "doubted"),
    [
        ("act_bits: 4}", True),
        ("overrides: {features.0.0: {act_bits: 8}}}", True),
        ("per_channel: true}", False),
        ('overrides: {"*": {per_channel: true}}}', False),
        ('overrides: {"*": {weight_bits: 8}}}', False),
    ],
)
def test_few_bits_for_depthwise_convolutions_are_doubted(folder, text, doubted):
    assert ["W005"] * doubted == [one.code for one in folder.load(MOBILE + text + "\n").warnings]
    assert folder.load(MOBILE.replace("4", "8") + "act_bits: 8}\n").warnings == ()


def test_the_networks_with_depthwise_convolutions_are_those_that_have_them():
    from torch import nn

    from lsqctl.models.factory import build_on_meta

    for name in fewer(NETWORKS, 4):
        model = build_on_meta(name, num_classes=2, in_channels=3, image_size=224)
        convs = [one for one in model.modules() if isinstance(one, nn.Conv2d)]
        found = any(conv.groups == conv.in_channels > 1 for conv in convs)
        assert found is MODELS[name].depthwise, name


NETWORKS = (
    *("mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5", "convnext_tiny"),
    *("efficientnet_b0", "maxvit_t", "resnext50_32x4d", "regnet_y_400mf", "densenet121"),
    *("resnet8", "preact_resnet18", "squeezenext23_2x", "swin_t", "vit_b_16"),
)
