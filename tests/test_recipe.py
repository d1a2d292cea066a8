"""Laws of the Recipe as a value: what its fingerprint depends on, what it refuses."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lsqctl.datasets import DATASETS
from lsqctl.errors import RecipeError, UsageError
from lsqctl.models import MODELS
from lsqctl.recipe import (
    Recipe,
    RunRef,
    cross_check,
    derived_defaults,
    fingerprint,
    is_valid_name,
    load_stored,
)
from lsqctl.recipe_file import dump, load
from lsqctl.recipe_file.keys import FIELDS, SECTIONS, choices_of

BASE: dict[str, Any] = {
    "name": "a",
    "model": {"name": "resnet18", "weights": "w.pth"},
    "data": {"name": "cifar10", "pad": 4, "flip": True},
    "distill": {"teacher": "t.pth"},
}
INPUTS = {"model.weights": "file:11", "distill.teacher": "file:22"}


def changed(key: str, value: Any) -> Recipe:
    data = json.loads(json.dumps(BASE))
    section, _, leaf = key.rpartition(".")
    (data.setdefault(section, {}) if section else data)[leaf] = value
    return Recipe.model_validate(data)


def another_value(key: str) -> Any:
    recipe: Any = Recipe.model_validate(BASE)
    for part in key.split("."):
        recipe = getattr(recipe, part)
    if choices := choices_of(key):
        other = next(choice for choice in choices if choice != str(recipe))
        return int(other) if isinstance(recipe, int) else other
    if isinstance(recipe, bool):
        return not recipe
    if isinstance(recipe, int):
        return recipe + 1
    if isinstance(recipe, dict):
        return {"*": {"weight_bits": 4}}
    if key == "train.stop":
        return {"patience": 3}
    if isinstance(recipe, float):
        return recipe * 0.75 if recipe else 0.25
    if recipe is None and FIELDS[key].annotation == float | None:
        return 0.25
    if recipe is None and FIELDS[key].annotation == int | None:
        return 7
    return "something else"


def identity(recipe: Recipe, *, with_seed: bool = False, inputs: dict[str, str] = INPUTS) -> str:
    return fingerprint(recipe, inputs, with_seed=with_seed)


@pytest.mark.parametrize("key", ["name", "description"])
def test_what_a_recipe_is_called_does_not_change_its_fingerprint(key):
    assert identity(changed(key, "b"), with_seed=True) == identity(
        Recipe.model_validate(BASE), with_seed=True
    )


UNSEEN = ("name", "description", "seed", "model.weights", "distill.teacher", "extension.run")


@pytest.mark.parametrize("key", [key for key in FIELDS if key not in UNSEEN])
def test_every_value_that_means_something_changes_the_fingerprint(key):
    other = changed(key, another_value(key))
    assert identity(other) != identity(Recipe.model_validate(BASE))


def test_an_extension_is_known_by_the_recipe_of_the_run_and_needs_no_first_weights():
    first, second = (changed("extension.run", run_id) for run_id in ("7kq2bbbb", "9xy1bbbb"))
    inputs = {"extension.run": "run:abc", "distill.teacher": "file:22"}
    assert set(first.input_refs()) == set(inputs)
    assert identity(first, inputs=inputs) == identity(second, inputs=inputs)
    other = inputs | {"extension.run": "run:abd"}
    assert identity(first, inputs=inputs) != identity(first, inputs=other)


def test_where_images_lie_is_no_part_of_what_they_are():
    one, other = changed("data.path", "a"), changed("data.path", "b")
    inputs = INPUTS | {"data.name": "imagefolder@sha"}
    assert identity(one, inputs=inputs) == identity(other, inputs=inputs)


def test_the_seed_changes_only_the_fingerprint_of_the_run():
    one, other = Recipe.model_validate(BASE), changed("seed", 7)
    assert identity(one) == identity(other)
    assert identity(one, with_seed=True) != identity(other, with_seed=True)


@pytest.mark.parametrize("key", list(INPUTS))
def test_weights_count_by_their_bytes_not_by_their_path(key):
    one, moved = Recipe.model_validate(BASE), changed(key, "elsewhere/x.pth")
    assert identity(one) == identity(moved)
    assert identity(one) != identity(one, inputs={**INPUTS, key: "file:33"})


def test_a_fingerprint_needs_the_bytes_behind_every_reference():
    with pytest.raises(ValueError, match=r"distill\.teacher"):
        fingerprint(Recipe.model_validate(BASE), {"model.weights": "file:1"}, with_seed=False)


def test_a_recipe_stored_complete_keeps_its_fingerprint():
    recipe = Recipe.model_validate(BASE)
    assert identity(load_stored(recipe.model_dump(mode="json"))) == identity(recipe)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"tomorrow": 1}, "`train.tomorrow`: extra inputs"), ({"epochs": "x"}, "`train.epochs`: ")],
)
def test_a_recipe_that_another_version_stored_is_told_in_one_line(change, reason):
    stored = Recipe.model_validate(BASE).model_dump(mode="json")
    stored["train"] |= change
    with pytest.raises(UsageError) as refused:
        load_stored(stored)
    assert f"{stored['name']}: {reason}" in str(refused.value)
    assert str(refused.value).endswith("submitted it; upgrade the older one")


def read(folder: Any, text: str) -> Recipe:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path).cells[0].recipe


@given(order=st.permutations(["model", "data", "train", "quant"]))
def test_neither_the_order_of_keys_nor_comments_change_the_fingerprint(tmp_path_factory, order):
    parts = {
        "model": "model: {name: resnet18}\n",
        "data": "data:\n  # a comment\n  batch_size: 64   # another\n  name: cifar10\n",
        "train": "train: {lr: 1e-2, epochs: 3}\n",
        "quant": "quant: {act_bits: 4, weight_bits: 4}\n",
    }
    folder = tmp_path_factory.mktemp("order")
    shuffled = read(folder, "".join(parts[name] for name in order))
    straight = read(folder, "".join(parts.values()))
    assert identity(shuffled, inputs={}) == identity(straight, inputs={})


@pytest.mark.parametrize("dataset", [*DATASETS])
def test_a_default_spelled_out_does_not_change_the_fingerprint(tmp_path, dataset):
    short = read(tmp_path, f"model: {{name: resnet18}}\ndata: {{name: {dataset}}}\n")
    assert identity(read(tmp_path, dump(short)), inputs={}) == identity(short, inputs={})


@pytest.mark.parametrize("key", ["quant.weight_bits", "quant.last_act_bits"])
@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 16, 31, 33])
def test_bits_are_2_to_8_or_32(key, bits):
    with pytest.raises(ValidationError, match=r"2\.\.8, or 32"):
        changed(key, bits)


@pytest.mark.parametrize("key", ["model.name", "data.name", "distill.teacher_model"])
def test_a_recipe_names_only_what_is_known(key):
    with pytest.raises(ValidationError, match="not one of the choices"):
        changed(key, "torch.hub.load")


def test_first_and_last_layer_follow_the_bits_of_their_kind():
    derived = derived_defaults({"quant": {"weight_bits": 4}})
    assert derived["quant.first_weight_bits"][0] == derived["quant.last_weight_bits"][0] == 8
    assert derived["quant.first_act_bits"][0] == derived["quant.last_act_bits"][0] == 32


@given(
    st.recursive(
        st.none() | st.text(max_size=5) | st.integers(),
        lambda v: st.dictionaries(st.sampled_from(["data", "quant", "name", "weight_bits"]), v),
    )
)
def test_defaults_are_derived_from_anything_without_an_error(raw):
    derived_defaults(raw if isinstance(raw, dict) else {})


@given(st.text(alphabet="ab./-_\\ A0é\n", max_size=20))
def test_a_valid_name_stays_inside_its_folder(name):
    if is_valid_name(name):
        assert ".." not in name
        assert not name.startswith(("/", "."))
        assert name.count("/") <= 3
        assert not set(name) & set("\\ \né")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "..",
        "a/../b",
        "con",
        "a/NUL.txt",
        "a" * 65,
        "a/b/c/d/e",
        "-a",
        ".a",
        "a\n",
    ],
)
def test_an_unsafe_name_is_refused(name):
    assert not is_valid_name(name)
    with pytest.raises(ValidationError):
        changed("name", name)


def test_sound_recipes_fit_together():
    assert cross_check(Recipe.model_validate(BASE)) == []


def test_references_name_what_must_exist_first():
    recipe = changed("model.weights", {"run": "p/q"})
    assert recipe.input_refs() == {"model.weights": RunRef(run="p/q"), "distill.teacher": "t.pth"}


def test_every_choice_of_a_model_is_accepted():
    for name in MODELS:
        assert changed("model.name", name).model.name == name


def test_every_key_has_a_meaning():
    assert all(field.description for field in FIELDS.values())
    assert set(SECTIONS) == {"model", "data", "quant", "train", "distill", "extension"}


def test_a_fault_of_a_file_names_its_line(tmp_path):
    with pytest.raises(RecipeError, match=r"x\.yaml:2:14: error\[R103\]"):
        read(tmp_path, "model: {name: resnet18}\ndata: {name: cifar}\n")
