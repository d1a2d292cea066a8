"""A single wrong letter gets the right suggestion."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.datasets import DATASETS
from lsqctl.errors import RecipeError
from lsqctl.models import MODELS
from lsqctl.recipe_file import load
from lsqctl.recipe_file.keys import FIELDS, SECTIONS, TOP_KEYS
from lsqctl.text import closest_name, edit_distance
from tests.conftest import FULL

from .conftest import MINIMAL

LETTERS = string.ascii_lowercase + "_"


def edits(word: str) -> set[str]:
    """Every word that one dropped, swapped, replaced or added letter makes of ``word``."""
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    made = {a + b[1:] for a, b in cuts if b}
    made |= {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    made |= {a + c + b[1:] for a, b in cuts if b for c in LETTERS}
    made |= {a + c + b for a, b in cuts for c in LETTERS}
    return made - {word, ""}


def sample(word: str) -> list[str]:
    """Every twentieth of the edits: every fifth takes 15 s and measures the same."""
    return sorted(edits(word))[:: 5 if FULL else 20]


@pytest.mark.parametrize(
    "known",
    [TOP_KEYS, *(tuple(section.model_fields) for section in SECTIONS.values())],
    ids=["top", *SECTIONS],
)
def test_at_least_95_of_100_single_edits_of_a_key_are_understood(known):
    tried = [(key, typo) for key in known for typo in sample(key) if typo not in known]
    right = sum(closest_name(typo, known) == key for key, typo in tried)
    assert right / len(tried) >= 0.95


@pytest.mark.parametrize("known", [tuple(DATASETS)], ids=["datasets"])
def test_at_least_95_of_100_single_edits_of_a_dataset_are_understood(known):
    tried = [(key, typo) for key in known for typo in sample(key) if typo not in known]
    right = sum(closest_name(typo, known) == key for key, typo in tried)
    assert right / len(tried) >= 0.95


@given(st.sampled_from(sorted(MODELS)), st.data())
def test_the_suggestion_for_a_misspelled_model_is_one_edit_away(name, data):
    typo = data.draw(st.sampled_from(sorted(edits(name))))
    guess = closest_name(typo, MODELS)
    assert guess is not None
    assert edit_distance(typo, guess) <= 1


@given(st.sampled_from(sorted(key for key in FIELDS if "." in key)), st.data())
def test_a_misspelled_key_in_a_file_is_reported_with_its_place_and_its_correction(
    tmp_path_factory, key, data
):
    section, leaf = key.split(".")
    known = SECTIONS[section].model_fields
    typo = data.draw(st.sampled_from(sorted(edits(leaf) - set(known))))
    everywhere = {name.rpartition(".")[2] for name in FIELDS} | {"y", "n"}
    if typo in everywhere or closest_name(typo, tuple(known)) != leaf:
        return
    path = tmp_path_factory.mktemp("typo") / "x.yaml"
    rest = {"model": "name: resnet18", "data": "name: cifar10", "distill": "teacher: t.pth"}
    others = "".join(f"{s}: {{{rest[s]}}}\n" for s in ("model", "data") if s != section)
    keep = f"  {rest[section]}\n" if section in rest and leaf not in ("name", "teacher") else ""
    path.write_text(f"{others}{section}:\n{keep}  {typo}: 1\n")
    with pytest.raises(RecipeError) as caught:
        load(path)
    faults = [fault for fault in caught.value.diagnostics if fault.code in ("R101", "R102")]
    assert [fault.code for fault in faults] == ["R101"]
    assert faults[0].hints[0].startswith(f"did you mean `{leaf}`")
    assert faults[0].source_line.strip() == f"{typo}: 1"


@given(st.text(max_size=12), st.text(max_size=12))
def test_a_distance_is_symmetric_and_zero_only_between_equals(one, other):
    assert edit_distance(one, other) == edit_distance(other, one)
    assert (edit_distance(one, other) == 0) == (one == other)
    assert edit_distance(one, other) <= max(len(one), len(other))


@pytest.mark.parametrize(
    ("text", "sets", "hint"),
    [
        ("train: {lr: [0.1, 0.2]}", (), "`sweep: {grid: {train.lr: [0.1, 0.2]}}`"),
        ("seed: [0,\n  1]", (), "`sweep: {grid: {seed: […]}}`"),
        ("train.lr: 0.1", (), "write `train: {lr: 0.1}`"),
        ("", ("train.lr=[0.1, 0.2]",), "to vary it, write --grid train.lr=0.1,0.2"),
        ("", ("train.lr:0.1",), "write --set train.lr=0.1"),
        ("", ("",), "write --set KEY=VALUE"),
    ],
)
def test_what_was_meant_is_said_where_a_form_is_wrong(folder, text, sets, hint):
    with pytest.raises(RecipeError) as refused:
        folder.load(f"{MINIMAL}{text}\n", sets=sets)
    (diagnostic,) = refused.value.diagnostics
    assert hint in diagnostic.hints[0]
