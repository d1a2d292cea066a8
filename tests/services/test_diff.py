"""Laws of a recipe's deviations: every key, both values, and where each is from."""

from __future__ import annotations

import json

import pytest

from lsqctl.errors import NotFound, UsageError
from lsqctl.services.diff import diff_recipes
from lsqctl.settings import load_settings

BASE = "abstract: true\ntrain: {epochs: 3, lr: 0.5}\nquant: {weight_bits: 4}\n"
MINE = "extends: base\nmodel: {name: resnet8}\ndata: {name: digits}\ntrain:\n  lr: 0.25\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "mine.yaml").write_text(MINE)
    return tmp_path


def diff(mine, theirs=None):
    return diff_recipes(mine, theirs, load_settings())


def test_a_deviation_says_both_values_and_where_each_stands(here):
    (one,) = diff("mine.yaml", "base.yaml")
    (deviation,) = one.deviations
    assert (deviation.key, deviation.left, deviation.right) == ("train.lr", 0.25, 0.5)
    assert (deviation.left_source, deviation.right_source) == ("mine.yaml:5", "base.yaml:2")


def test_without_another_each_recipe_is_compared_with_what_it_extends(here):
    assert diff("mine.yaml") == diff("mine.yaml", "base.yaml")
    with pytest.raises(UsageError, match=r"digits/resnet8-w4a4 extends no recipe: .* paper/w4a4"):
        diff("digits/resnet8-w4a4")


def test_what_a_base_leaves_open_is_no_deviation_but_a_default_it_relies_on_is(here):
    (here / "mine.yaml").write_text(MINE + "  momentum: 0.5\nseed: 7\n")
    (one,) = diff("mine.yaml")
    found = {each.key: (each.right, each.right_source) for each in one.deviations}
    assert found == {"train.lr": (0.5, "base.yaml:2"), "train.momentum": (0.9, "default")}


def test_a_teacher_that_the_other_lacks_is_told_key_by_key(here):
    text = MINE + "distill: {teacher: {run: digits/resnet8-fp32}}\n"
    (here / "mine.yaml").write_text(text)
    (one,) = diff("mine.yaml")
    found = {each.key: each for each in one.deviations}
    assert found["distill.teacher"].left == {"run": "digits/resnet8-fp32"}
    assert (found["distill.soft_weight"].right, found["distill.soft_weight"].right_source) == (
        *(None, ""),
    )


def test_each_cell_of_a_sweep_is_compared_once_with_its_own_base():
    found = diff("cifar10/resnet20-lsq")
    assert [(one.left.rpartition("-")[2], one.right) for one in found] == [
        *(("w2a2", "paper/w2a2"), ("w3a3", "paper/w3a3")),
        *(("w4a4", "paper/w4a4"), ("w3a4", "paper/w3a4")),
    ]
    assert all("train.weight_decay" not in {d.key for d in one.deviations} for one in found)
    against_one = diff("cifar10/resnet20-lsq", "paper/w4a4")
    assert "train.weight_decay" in {d.key for d in against_one[0].deviations}


def test_a_cell_can_be_named_and_a_sweep_is_no_one_recipe():
    (one,) = diff("imagenet/preact-resnet18-lsq-w4a4", "imagenet/preact-resnet18-lsq-w2a2")
    assert {each.key for each in one.deviations} == {
        *("quant.weight_bits", "quant.act_bits", "train.weight_decay"),
    }
    with pytest.raises(UsageError, match=r"is 4 recipes: name one of its cells: .*-w2a2"):
        diff("digits/resnet8-w4a4", "imagenet/preact-resnet18-lsq")


def test_a_misspelled_name_gets_the_nearest():
    with pytest.raises(NotFound, match=r"`paper/w4a5`; the nearest are `paper/w4a4`"):
        diff("digits/resnet8-w4a4", "paper/w4a5")


def test_a_run_is_compared_as_it_was_stored(cli):
    cli.write("mine.yaml", "extends: digits/resnet8-w4a4\n")
    cli("submit", "mine.yaml", "--set", "train.lr=0.1")
    told = cli("recipe", "diff", "@last", "digits/resnet8-w4a4", "--exit-code", "--json", code=1)
    (one,) = json.loads(told.stdout)["comparisons"]
    assert [(d["key"], d["left"], d["right"]) for d in one["deviations"]] == [
        ("train.lr", 0.1, 0.02)
    ]
    assert one["deviations"][0]["left_source"] == f"run {one['left']}"
    same = cli("recipe", "diff", "mine.yaml", "--exit-code")
    assert (same.stdout, same.stderr) == ("", "no deviations of mine from digits/resnet8-w4a4\n")
    text = cli("recipe", "diff", "digits/resnet8-lsq", "digits/resnet8-w4a4").stdout
    assert "quant.weight_bits\t8\t4\t" in text
