"""Every shipped recipe loads, is documented, and is what the paper says where it claims to be."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
import yamlcore

from lsqctl.bundled import bundled
from lsqctl.errors import RecipeError
from lsqctl.recipe import RunRef
from lsqctl.recipe_file import (
    bundled_recipes,
    find_parent,
    json_schema,
    keys_markdown,
    load,
    recipe_summaries,
)

ROOT = bundled("recipes")
FILES = sorted(ROOT.rglob("*.y*ml"))
NAMES = [path.relative_to(ROOT).with_suffix("").as_posix() for path in FILES]
README = ROOT / "README.md"
BEGIN, END = "<!-- keys: begin -->\n", "<!-- keys: end -->\n"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_shipped_recipe_loads_and_is_named_after_its_path(path):
    loaded = load(path, abstract_ok=True)
    assert loaded.name == path.relative_to(ROOT).with_suffix("").as_posix()
    assert bool(loaded.cells) is not loaded.abstract
    assert loaded.warnings == ()
    assert loaded.description


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_shipped_recipe_opens_with_what_and_why(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_published_schema_accepts_every_shipped_recipe(path):
    data = yaml.load(path.read_text(encoding="utf-8"), Loader=yamlcore.CoreLoader)
    jsonschema.Draft202012Validator(json_schema()).validate(json.loads(json.dumps(data)))


@pytest.mark.parametrize("name", NAMES)
def test_every_run_that_a_shipped_recipe_starts_from_is_shipped_too(name):
    loaded = load(name, abstract_ok=True)
    for cell in loaded.cells:
        for parent in cell.recipe.input_refs().values():
            if isinstance(parent, RunRef):
                assert find_parent(parent.run, loaded.path).cells


def test_the_listing_is_what_lies_on_the_disk():
    assert bundled_recipes() == sorted(NAMES)
    assert [header.name for header in recipe_summaries()] == sorted(NAMES)


def test_no_two_shipped_recipes_make_runs_of_one_name_and_seed():
    pairs = [
        (cell.recipe.name, cell.recipe.seed)
        for name in NAMES
        for cell in load(name, abstract_ok=True).cells
    ]
    assert len(pairs) == len(set(pairs))


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("paper/")])
def test_a_base_of_the_paper_cannot_be_run(name):
    with pytest.raises(RecipeError, match=r"R003.*cannot be run"):
        load(name)


@pytest.mark.parametrize(
    ("base", "bits", "epochs", "lr", "decay"),
    [  # Esser et al. 2020, section 2
        ("w2a2", 2, 90, 0.01, 0.25e-4),
        ("w3a3", 3, 90, 0.01, 0.5e-4),
        ("w4a4", 4, 90, 0.01, 1e-4),
        ("w8a8", 8, 1, 0.001, 1e-4),
        ("fp32", 32, 90, 0.1, 1e-4),
    ],
)
def test_the_bases_hold_the_papers_values(tmp_path, base, bits, epochs, lr, decay):
    text = f"extends: paper/{base}\nmodel: {{name: resnet18}}\ndata: {{name: imagenet}}\n"
    (tmp_path / "x.yaml").write_text(text)
    recipe = load(tmp_path / "x.yaml").cells[0].recipe
    edge = 8 if bits < 32 else 32
    quant, train = recipe.quant, recipe.train
    assert (quant.weight_bits, quant.act_bits) == (bits, bits)
    assert {quant.first_weight_bits, quant.first_act_bits} == {edge}
    assert {quant.last_weight_bits, quant.last_act_bits} == {edge}
    assert (train.epochs, train.lr, train.weight_decay) == (epochs, lr, decay)
    assert (train.momentum, train.schedule) == (0.9, "cosine")
    assert (recipe.data.batch_size, recipe.data.resize, recipe.data.resize_mode) == (
        256,
        256,
        "square",
    )


def test_the_digits_sweep_is_five_precisions():
    loaded = load("digits/resnet8-lsq")
    assert [cell.label for cell in loaded.cells] == ["w8a8", "w4a4", "w3a3", "w2a2", "w3a4"]


def test_the_cifar_sweep_takes_the_weight_decay_of_each_base():
    cells = load("cifar10/resnet20-lsq").cells
    decays = {cell.label: cell.recipe.train.weight_decay for cell in cells}
    assert decays == {"w2a2": 0.25e-4, "w3a3": 0.5e-4, "w4a4": 1e-4, "w3a4": 0.5e-4}
    assert len(cells) == 12


def test_the_readme_lists_every_key_as_the_code_has_it():
    table = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert table == keys_markdown(), (
        "recipes/README.md is out of date: run `python -m tests.test_bundled_recipes`"
    )


def test_every_command_of_the_readme_runs(cli):
    block = README.read_text(encoding="utf-8").partition("```console\n")[2].partition("```")[0]
    commands = [line[2:].partition("  #")[0].split() for line in block.splitlines()]
    assert len(commands) == 4
    for program, *words in commands:
        assert program == "lsqctl"
        assert cli(*words).stdout


def write_table(readme: Path = README) -> None:
    """Put the current table of keys into the README."""
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(before + BEGIN + keys_markdown() + END + after, encoding="utf-8")


if __name__ == "__main__":
    write_table()
