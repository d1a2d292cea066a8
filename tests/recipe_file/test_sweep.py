"""Sweeps: how many cells, in which order, under which names; --set and --seed."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.errors import NotFound, RecipeError
from lsqctl.recipe import is_valid_name
from lsqctl.recipe_file import Changes, find_parent, load

from .conftest import MINIMAL


def names(loaded):
    return [cell.recipe.name for cell in loaded.cells]


def test_a_recipe_without_a_sweep_is_one_cell_without_a_label(folder):
    loaded = folder.load(MINIMAL)
    assert (len(loaded.cells), loaded.is_sweep, loaded.cells[0].label) == (1, False, "")
    assert names(loaded) == ["x"]


def test_zip_goes_side_by_side_and_grid_combines(folder):
    loaded = folder.load(
        MINIMAL + "sweep:\n  zip: {quant.weight_bits: [2, 3], quant.act_bits: [2, 4]}\n"
        "  grid: {seed: [0, 1], train.lr: [0.1, 0.01]}\n"
    )
    got = [(c.label, c.recipe.seed, c.recipe.quant.act_bits) for c in loaded.cells]
    assert got == [
        ("w2a2-lr0.1", 0, 2), ("w2a2-lr0.01", 0, 2), ("w2a2-lr0.1", 1, 2), ("w2a2-lr0.01", 1, 2),
        ("w3a4-lr0.1", 0, 4), ("w3a4-lr0.01", 0, 4), ("w3a4-lr0.1", 1, 4), ("w3a4-lr0.01", 1, 4),
    ]  # fmt: skip
    assert loaded.is_sweep


@pytest.mark.parametrize("length", [40, 60, 64])
def test_a_cells_name_that_would_be_too_long_is_shortened_and_stays_its_own(folder, length):
    long = f"name: a/{'x' * length}\n{MINIMAL}"
    lr = [0.5, 0.25, 0.125]
    loaded = folder.load(f"{long}sweep: {{grid: {{quant.weight_bits: [2], train.lr: {lr}}}}}\n")
    found = names(loaded)
    assert found == names(folder.load(loaded.path.read_text()))
    assert len(set(found)) == len(lr)
    for name, cell, rate in zip(found, loaded.cells, lr, strict=True):
        assert is_valid_name(name)
        assert name.startswith("a/xxx")
        assert name.endswith(f"-w2a32-lr{rate}")
        assert cell.label == f"w2a32-lr{rate}"


@given(
    zipped=st.integers(0, 3),
    lr=st.lists(st.sampled_from([0.1, 0.2, 1e-05, 1, 1e16]), max_size=3, unique=True),
    seeds=st.lists(st.integers(0, 9), max_size=3, unique=True),
)
def test_cells_are_zip_times_grid_with_valid_distinct_names(tmp_path_factory, zipped, lr, seeds):
    lines = [f"  zip: {{quant.act_bits: {list(range(2, 2 + zipped))}}}"] if zipped else []
    grid = [f"train.lr: {lr}"] * bool(lr) + [f"seed: {seeds}"] * bool(seeds)
    lines += [f"  grid: {{{', '.join(grid)}}}"] if grid else []
    path = tmp_path_factory.mktemp("sweep") / "x.yaml"
    text = MINIMAL + ("sweep:\n" + "\n".join(lines) + "\n" if lines else "")
    path.write_text(text.replace("1e+16", "1000"))
    cells = load(path).cells
    assert len(cells) == max(1, zipped) * max(1, len(lr)) * max(1, len(seeds))
    assert len({(cell.recipe.name, cell.recipe.seed) for cell in cells}) == len(cells)
    assert all(is_valid_name(cell.recipe.name) for cell in cells)


def test_cells_from_several_bases_are_named_by_their_bits():
    labels = dict.fromkeys(cell.label for cell in load("cifar10/resnet20-lsq").cells)
    assert list(labels) == ["w2a2", "w3a3", "w4a4", "w3a4"]


def test_bases_of_equal_bits_are_named_by_themselves(folder):
    folder.write("quant: {weight_bits: 4, act_bits: 4}\nabstract: true\n", "mine.yaml")
    loaded = folder.load(MINIMAL + "sweep: {grid: {extends: [paper/w4a4, mine, paper/fp32]}}\n")
    assert [cell.label for cell in loaded.cells] == ["w4a4-w4a4", "w4a4-mine", "fp32-fp32"]


def test_a_swept_section_may_be_dropped_or_given(folder):
    loaded = folder.load(MINIMAL + "sweep: {grid: {distill: [null, {teacher: t.pth}]}}\n")
    assert [cell.recipe.distill is None for cell in loaded.cells] == [True, False]
    assert [cell.label for cell in loaded.cells] == ["distillnull", "distillteacher-t.pth"]


def test_seeds_on_the_command_line_replace_those_of_the_file(folder):
    text = MINIMAL + "sweep: {grid: {train.lr: [0.1, 0.2], seed: [0, 1, 2]}}\n"
    loaded = folder.load(text, seeds=[5, 6])
    assert [cell.recipe.seed for cell in loaded.cells] == [5, 6, 5, 6]
    assert loaded.cells[0].origins["seed"] == "--seed"
    one = folder.load(MINIMAL + "seed: 3\n", seeds=[7, 8, 7])
    assert [(cell.recipe.name, cell.recipe.seed) for cell in one.cells] == [("x", 7), ("x", 8)]


def test_a_seed_out_of_range_is_a_fault_of_the_option(folder):
    with pytest.raises(RecipeError, match=r"--seed:1:8: error\[R104\]"):
        folder.load(MINIMAL, seeds=[-1])


def test_set_is_applied_last_and_enters_the_name(folder):
    text = "extends: paper/w4a4\n" + MINIMAL + "sweep: {grid: {train.epochs: [1, 2]}}\n"
    loaded = folder.load(text, sets=["train.lr=1e-3", "quant.act_bits=8", "seed=4"])
    assert [cell.label for cell in loaded.cells] == ["w4a8-epochs1-lr0.001", "w4a8-epochs2-lr0.001"]
    recipe = loaded.cells[0].recipe
    assert (recipe.train.lr, recipe.quant.act_bits, recipe.seed) == (0.001, 8, 4)
    assert loaded.cells[0].origins["train.lr"] == "--set"


def test_a_given_name_stands_for_what_is_set_and_cells_keep_what_tells_them_apart(folder):
    text = "extends: paper/w4a4\n" + MINIMAL + "sweep: {grid: {train.epochs: [1, 2]}}\n"
    loaded = folder.load(text, sets=["train.lr=1e-3", "quant.act_bits=8"], name="net/short")
    assert loaded.name == "net/short"
    names = [cell.recipe.name for cell in loaded.cells]
    assert names == ["net/short-epochs1", "net/short-epochs2"]
    assert [cell.origins["name"] for cell in loaded.cells] == ["--name", "--name"]
    plain = folder.load(text, sets=["train.lr=1e-3", "quant.act_bits=8"])
    unnamed = [cell.recipe.model_dump(exclude={"name"}) for cell in plain.cells]
    assert [cell.recipe.model_dump(exclude={"name"}) for cell in loaded.cells] == unnamed


@pytest.mark.parametrize("name", ["", "a|b", "1e3|", "x" * 65, "a\nb", "[1"])
def test_a_given_name_that_no_recipe_may_have_is_pointed_at(folder, name):
    with pytest.raises(RecipeError, match=r"--name:1:8: error\[R106\]"):
        folder.load(MINIMAL, name=name)


@pytest.mark.parametrize("name", ["1e3", "null", "true", "007"])
def test_a_given_name_is_a_name_whatever_yaml_would_make_of_it(folder, name):
    assert folder.load(MINIMAL, name=name).cells[0].recipe.name == name


def test_set_takes_flow_values_and_yaml_1_2(folder):
    loaded = folder.load(MINIMAL, sets=["model.weights={run: a/b}"])
    assert loaded.cells[0].recipe.model.weights.run == "a/b"
    with pytest.raises(RecipeError, match="must be true or false, got 'no'"):
        folder.load(MINIMAL, sets=["data.flip=no"])


def test_a_bad_set_is_pointed_at(folder):
    with pytest.raises(RecipeError) as caught:
        folder.load(MINIMAL, sets=["train.lr=fast"])
    (fault,) = caught.value.diagnostics
    assert fault.file == "--set"
    span = slice(fault.position.column - 1, fault.position.end_column - 1)
    assert fault.source_line[span] == "fast"


def test_cells_that_a_set_makes_equal_become_one(folder):
    text = MINIMAL + "sweep: {grid: {train.lr: [0.1, 0.2]}}\n"
    assert len(folder.load(text, sets=["train.lr=0.3"]).cells) == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("lr=0.1", "did you mean `train.lr`?"),
        (
            "quant.act_per_channel=true",
            "activations have one step size a tensor; `per_channel` is of weights",
        ),
        ("model.weights.run=base", "set `model.weights` to {run: NAME}"),
    ],
)
def test_an_unknown_set_key_gets_its_full_name_or_the_reason(folder, given, told):
    with pytest.raises(RecipeError) as caught:
        folder.load(MINIMAL, sets=[given])
    assert caught.value.diagnostics[0].hints == (told,)


def test_a_fault_of_some_cells_names_the_first_of_them(folder):
    text = (
        MINIMAL + "train: {warmup_epochs: 5}\nsweep: {grid: {train.epochs: [9, 3, 2], seed: [0]}}\n"
    )
    with pytest.raises(RecipeError) as caught:
        folder.load(text)
    assert [f.cell for f in caught.value.diagnostics] == [
        "cell 2 of 3: train.epochs=3, seed=0",
        "cell 3 of 3: train.epochs=2, seed=0",
    ]


def test_a_fault_of_every_cell_is_said_once_and_names_none(folder):
    text = "model: {name: resnet18}\ndata: {name: x}\nsweep: {grid: {seed: [0, 1, 2]}}\n"
    with pytest.raises(RecipeError) as caught:
        folder.load(text)
    assert [fault.cell for fault in caught.value.diagnostics] == [""]


def test_a_seed_given_twice_runs_once_and_is_warned_of(folder):
    loaded = folder.load(MINIMAL + "sweep: {grid: {seed: [0, 1, 1]}}\n")
    assert [cell.recipe.seed for cell in loaded.cells] == [0, 1]
    assert [warning.code for warning in loaded.warnings] == ["W002"]


def test_a_cell_of_a_bundled_sweep_is_a_recipe_by_its_own_name():
    name = "digits/resnet8-lsq-w3a3"
    sweep, alone = load("digits/resnet8-lsq"), load(name)
    (cell,) = (cell for cell in sweep.cells if cell.recipe.name == name)
    assert [one.recipe for one in alone.cells] == [cell.recipe]
    assert (alone.name, alone.is_sweep, alone.cells[0].label) == (name, False, "")
    assert alone.cells[0].origins == cell.origins
    assert cell.origins["name"] == "the file's path, and what this cell changes"
    changes = Changes(sets=["train.lr=0.02"], seeds=[3, 4])
    changed = [one.recipe for one in load("digits/resnet8-lsq", changes).cells]
    expected = [one for one in changed if one.name == f"{name}-lr0.02"]
    assert [one.recipe for one in load(name, changes).cells] == expected
    assert len(expected) == 2


def test_a_cell_of_several_seeds_keeps_them():
    alone = load("cifar10/resnet20-lsq-distill-w4a4")
    assert [one.recipe.seed for one in alone.cells] == [0, 1, 2]
    assert alone.is_sweep
    changed = load("cifar10/resnet20-lsq-distill-w4a4", Changes(sets=["train.epochs=2"]))
    assert [one.recipe.seed for one in changed.cells] == [0, 1, 2]


def test_a_cell_that_no_sweep_has_is_no_recipe():
    nearest = "`digits/resnet8-lsq-w2a2`, `digits/resnet8-lsq-w3a3`, `digits/resnet8-lsq-w3a4`"
    with pytest.raises(NotFound) as caught:
        load("digits/resnet8-lsq-w5a5")
    assert str(caught.value) == (
        f"no bundled recipe `digits/resnet8-lsq-w5a5`; the nearest are {nearest} (all cells of "
        "`digits/resnet8-lsq`: lsqctl submit digits/resnet8-lsq --dry-run)"
    )
    with pytest.raises(NotFound, match="the nearest are `cifar10/resnet20-lsq-distill`"):
        load("cifar10/resnet20-lsq-distil")


def test_a_parent_may_be_a_cell_of_a_sweep(folder):
    parent = find_parent("digits/resnet8-lsq-w3a4")
    assert parent.loaded.name == "digits/resnet8-lsq"
    assert [cell.label for cell in parent.cells] == ["w3a4"]
    assert len(find_parent("cifar10/resnet20-lsq-w2a2").cells) == 3


def test_a_parent_is_looked_for_beside_its_child_first(folder):
    folder.write("name: digits/resnet8-fp32\n" + MINIMAL, "resnet8-fp32.yaml")
    near = folder.write(MINIMAL, "child.yaml")
    assert find_parent("digits/resnet8-fp32", near).loaded.path.name == "resnet8-fp32.yaml"
    assert find_parent("digits/resnet8-fp32", near).cells[0].recipe.data.name == "cifar10"
    assert find_parent("digits/resnet8-fp32").cells[0].recipe.data.name == "digits"


SEARCH = "sweep: {random: {train.lr: loguniform(1e-3, 1e-1), seed: integer(0, 9)}, runs: %d}\n"


def drawn(loaded):
    return [(cell.recipe.train.lr, cell.recipe.seed) for cell in loaded.cells]


def test_draws_are_a_function_of_seed_key_and_number_and_lie_within_their_bounds(folder):
    twenty = drawn(folder.load(MINIMAL + SEARCH % 20))
    assert twenty == drawn(folder.load(MINIMAL + SEARCH % 20))
    assert twenty[:5] == drawn(folder.load(MINIMAL + SEARCH % 5))
    other = drawn(
        folder.load(f"{MINIMAL}seed: 1\n" + SEARCH.replace(", seed: integer(0, 9)", "") % 20)
    )
    assert not {rate for rate, _ in other} & {rate for rate, _ in twenty}
    assert all(1e-3 <= rate <= 1e-1 and 0 <= seed <= 9 for rate, seed in twenty)
    assert len({rate for rate, _ in twenty}) == 20
    assert sum(rate < 1e-2 for rate, _ in twenty) in range(5, 16)  # half of them, on a log scale


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"grids": ["train.lr=1,2", "train.lr=3"]},
            ["`train.lr` is varied twice", "after one --grid"],
        ),
        (
            {"grids": ["seed=1,2"], "seeds": [3]},
            ["`seed` is varied here and by --seed", "leave one"],
        ),
    ],
)
def test_a_key_that_two_options_vary_is_said(folder, changes, said):
    with pytest.raises(RecipeError) as caught:
        folder.load(MINIMAL, **changes)
    (found,) = caught.value.diagnostics
    assert all(part in "\n".join([found.message, *found.hints]) for part in said)


def test_lists_are_drawn_from_and_draws_combine_with_the_grid_and_yield_to_the_command_line(folder):
    text = (
        MINIMAL + "sweep:\n  random:\n    train.lr: uniform(0.1, 0.2)\n"
        "    quant.weight_bits: [2, 3]\n  runs: 6\n  grid:\n    seed: [0, 1]\n"
    )
    loaded = folder.load(text)
    assert len(loaded.cells) == 12
    assert {cell.recipe.quant.weight_bits for cell in loaded.cells} == {2, 3}
    varied = folder.load(text, grids=["train.lr=0.5"], seeds=[7])
    assert {(c.recipe.train.lr, c.recipe.seed) for c in varied.cells} == {(0.5, 7)}


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("{random: {train.lr: loguniform(0, 1)}, runs: 2}", "needs 0 < low < high"),
        ("{random: {train.lr: gauss(0, 1)}, runs: 2}", "write one of uniform(LOW, HIGH)"),
        ("{random: {train.lr: uniform(a, 1)}, runs: 2}", "needs two numbers"),
        ("{random: {seed: integer(0.5, 3)}, runs: 2}", "needs whole numbers"),
        ("{random: {train.lr: []}, runs: 2}", "the list is empty"),
        ("{random: {train.lr: uniform(0, 1)}}", "`random` and `runs` go together"),
        ("{grid: {seed: [1]}, runs: 3}", "`random` and `runs` go together"),
        ("{random: {train.lr: uniform(1, 2)}, runs: 0}", "1 to 1,000, got 0"),
        ("{random: {train.lrr: uniform(1, 2)}, runs: 2}", "did you mean `train.lr`?"),
        ("{grid: {train.lr: uniform(1, 2)}}", "stands under `random`"),
        ("{random: {seed: [1]}, runs: 2, grid: {seed: [1]}}", "`seed` is varied twice"),
        ("{grid: {seed: [1, 2]}, halving: 3}", "write `halving: {metric: top1, factor: 3}`"),
        ("{grid: {seed: [1, 2]}, halving: {factor: 1}}", "2 to 100, got 1"),
        ("{grid: {seed: [1, 2]}, halving: {metrik: loss}}", "did you mean `metric`?"),
        ("{grid: {seed: [1, 2]}, halving: {metric: lr}}", "must be top1 or loss"),
        ("{grid: {train.epochs: [3, 9]}, halving: {}}", "it needs one number"),
        ("{grid: {seed: [1, 2]}, halving: {first: 60}}", "no rung at or after epoch 60"),
    ],
)
def test_a_wrong_search_is_said_where_it_stands(folder, sweep, said):
    with pytest.raises(RecipeError) as caught:
        folder.load(f"{MINIMAL}sweep: {sweep}\n")
    texts = [text for one in caught.value.diagnostics for text in (one.message, *one.hints)]
    assert said in "\n".join(texts)
    assert all(one.position.line == 3 for one in caught.value.diagnostics)


def test_rungs_are_the_epochs_over_powers_of_the_factor(folder):
    halving = folder.load(
        f"{MINIMAL}sweep: {{grid: {{seed: [1, 2]}}, halving: {{first: 3}}}}\n"
    ).halving
    assert (halving.metric, halving.factor, halving.rungs) == ("top1", 3, (3, 10, 30))


def test_the_search_of_the_page_trains_as_few_epochs_as_the_page_says(folder):
    page = (Path(__file__).parents[2] / "docs/search.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    loaded = folder.load(block)
    left, before, trained = len(loaded.cells), 0, 0
    for rung in (*loaded.halving.rungs, 9):
        trained += left * (rung - before)
        left, before = -(-left // loaded.halving.factor), rung
    assert (loaded.halving.rungs, trained) == ((1, 3), 21)
    assert f"{trained} epochs\ninstead of {9 * len(loaded.cells)}" in page
