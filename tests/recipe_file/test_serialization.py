"""Recipes written: dump and template load back, the schema agrees with the loader, formats."""

import json
import unicodedata

import jsonschema
import pytest
import yaml
import yamlcore
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.cli.diagnostics import format_diagnostics, format_github, format_json, format_summary
from lsqctl.errors import Diagnostic, Position, RecipeError
from lsqctl.recipe import Recipe
from lsqctl.recipe_file import CODES, SCHEMA_FILE, dump, json_schema, keys_table, load, template
from lsqctl.recipe_file.keys import FIELDS

from .conftest import MINIMAL

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(
    description=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    weights=WORDS | st.builds(lambda name: {"run": name}, WORDS),
    lr=st.floats(1e-12, 1000),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_dumped_recipe_loads_back_equal(tmp_path_factory, description, weights, lr, seed):
    recipe = Recipe.model_validate(
        {
            "name": "a/b",
            "description": description,
            "model": {"name": "resnet18", "weights": weights},
            "data": {"name": "cifar10"},
            "train": {"lr": lr},
            "seed": seed,
        }
    )
    path = tmp_path_factory.mktemp("dump") / "x.yaml"
    path.write_text(dump(recipe), encoding="utf-8", newline="")
    assert load(path).cells[0].recipe == recipe


def test_a_dump_says_where_each_value_comes_from(folder):
    cell = folder.load("extends: paper/w4a4\n" + MINIMAL).cells[0]
    text = dump(cell.recipe, cell.origins)
    rows = {line.split("#")[0].strip(): line.split("#")[-1].strip() for line in text.splitlines()}
    assert rows["weight_bits: 4"] == "base paper/w4a4"
    assert rows["pad: 4"] == "default of cifar10"
    assert rows["first_act_bits: 8"] == "follows quant.act_bits"
    assert folder.load(text).cells[0].recipe == cell.recipe


def test_the_template_loads_and_names_the_schema(folder):
    text = template("mine")
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n")
    assert folder.load(text).name == "mine"
    VALIDATOR.validate(yaml.load(text, Loader=yamlcore.CoreLoader))


def test_the_templates_commented_keys_load_too(folder):
    lines = template("mine").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("# sweep:"))
    text = "\n".join([*lines[:start], *(line.removeprefix("# ") for line in lines[start:])])
    assert len(folder.load(text).cells) == 9


def test_the_schema_is_a_schema_with_an_id_and_a_meaning_for_every_key():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$id"] == "urn:lsqctl:recipe:1"
    for key in FIELDS:
        section, _, leaf = key.rpartition(".")
        holder = SCHEMA["properties"]
        if section:
            reference = holder[section]["anyOf"][0]["$ref"].rpartition("/")[2]
            holder = SCHEMA["$defs"][reference]["properties"]
        assert holder[leaf]["description"], key


@pytest.mark.parametrize(
    "text",
    [
        "quant: {wieght_bits: 4}",
        "modle: {}",
        "quant: {weight_bits: 16}",
        "model: {name: resnet_18}",
        "train: {epochs: '4'}",
        "train: {lr: 0}",
        "sweep: {gird: {}}",
        "sweep: {grid: {lr: [1]}}",
        "sweep: {grid: {quant.weight_bits: [33]}}",
        "sweep: {grid: {seed: 3}}",
        "distill: {teacher: t, teacher_model: x}",
        "data: {flip: yes}",
    ],
)
def test_what_the_schema_refuses_the_loader_refuses(folder, text):
    data = yaml.load(text, Loader=yamlcore.CoreLoader)
    whole = {"extends": "paper/w4a4", **data}
    assert not VALIDATOR.is_valid(whole)
    with pytest.raises(RecipeError):
        folder.load("extends: paper/w4a4\n" + text + "\n")


def test_the_table_of_keys_has_every_key_once():
    keys = [row.key for row in keys_table()]
    assert keys == ["extends", "abstract", "sweep", *FIELDS]
    assert all(row.type and row.default and row.meaning for row in keys_table())


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_explained_in_two_sentences_with_an_example(code):
    entry = CODES[code]
    assert entry.title
    assert entry.explanation.count(". ") >= 1
    assert entry.example


def test_every_code_is_raised_somewhere_and_explained():
    from pathlib import Path

    golden = (Path(__file__).parent / "golden").glob("*.txt")
    said = "".join(path.read_text(encoding="utf-8") for path in golden)
    assert {code for code in CODES if f"[{code}]" in said} == {c for c in CODES if c[0] == "R"}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("train: {lr: 2}", "W001"),
        ("sweep: {grid: {seed: [1, 1]}}", "W002"),
        ("quant: {per_channel: true}", "W003"),
        ("quant: {weight_bits: 4, percentile: 99}", "W003"),
        ("train: {epochs: 0}", "W004"),
        ("quant: {weight_bits: 4, act_offset: learned}", "W003"),
        ("distill: {teacher: t.pt, soft_weight: 0}", "W003"),
    ],
)
def test_a_likely_mistake_is_a_warning_and_runs(folder, text, code):
    loaded = folder.load(MINIMAL + text + "\n")
    assert [warning.code for warning in loaded.warnings] == [code]
    assert loaded.cells
    assert format_diagnostics(loaded.warnings).startswith(f"warning[{code}]: ")
    assert format_summary(loaded.warnings, "x") == "x: 1 warning"


@pytest.mark.parametrize(
    "text", ["percentile: 99.9", "percentile: 99, overrides: {layer1.*: {init: percentile}}"]
)
def test_a_percentile_that_is_read_or_says_nothing_new_is_no_mistake(folder, text):
    """The first is what `lsqctl recipe show` and `recipe bits` write."""
    assert folder.load(f"{MINIMAL}quant: {{weight_bits: 4, {text}}}\n").warnings == ()


def test_a_teacher_whose_features_alone_are_followed_is_used(folder):
    text = "quant: {weight_bits: 4}\ndistill: {teacher: t.pt, soft_weight: 0, features: 1}\n"
    assert folder.load(MINIMAL + text).warnings == ()


FAULT = Diagnostic(
    "R104", "a title", "a label", "a,b.yaml", Position(2, 3, 5), "  ab", ("do: 100%",)
)


def test_github_annotations_escape_what_the_format_reserves():
    assert format_github([FAULT]) == (
        "::error file=a%2Cb.yaml,line=2,col=3,endColumn=5,title=R104::"
        "a title: a label%0Ado: 100%25\n"
    )


def test_json_carries_every_field():
    (row,) = json.loads(format_json([FAULT]))["diagnostics"]
    assert (row["code"], row["level"], row["position"]["line"]) == ("R104", "error", 2)


def test_colour_changes_no_letter():
    import re

    coloured = format_diagnostics([FAULT], colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == format_diagnostics([FAULT])


@given(st.text(max_size=40), st.integers(1, 50), st.integers(1, 9))
def test_any_source_line_is_drawn_without_control_characters(line, column, width):
    fault = Diagnostic("R001", line, line, "x", Position(1, column, column + width), line, (line,))
    text = format_diagnostics([fault])
    unseen = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert not unseen & {unicodedata.category(char) for char in text.replace("\n", "")}
    assert "^" in text
