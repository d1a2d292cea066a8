"""ARCHITECTURE.md tells the truth: its layers, its tree, its paths and its words are the code's."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from lsqctl.run import EndReason, RunState
from tests.test_words import RETIRED_NAMES

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def modules() -> set[str]:
    return {
        path.stem
        for path in (ROOT / "lsqctl").iterdir()
        if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py")
    }


def drawn_layers() -> list[set[str]]:
    """Return the modules of the drawing, line by line, top to bottom."""
    drawing = section("Layers").split("```")[1]
    lines = [re.split(r" {2,}(?=\S+ \S)", line.strip())[0] for line in drawing.splitlines()]
    layers = [set(line.split()) & modules() for line in lines]
    return [layer for layer in layers if layer]


def test_the_layers_are_drawn_as_import_linter_holds_them():
    contract = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    layers = [
        {name.strip().removeprefix("lsqctl.") for name in line.split("|")} for line in contract
    ]
    *drawn, leaves = drawn_layers()
    assert drawn == layers
    assert leaves == modules() - set().union(*layers)


def test_the_tree_names_every_module_and_no_other():
    tree = re.search(r"^```\n(lsqctl/  .*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert tree
    named = {
        line.split()[0].rstrip("/").removesuffix(".py")
        for line in tree[1].splitlines()
        if line.startswith("  ")
    }
    assert named == modules()
    folders = {line.split()[0] for line in tree[1].splitlines() if not line.startswith("  ")}
    assert {folder for folder in folders if not (ROOT / folder).is_dir()} == set()


def test_every_path_it_names_exists():
    table = re.findall(r"^\| .+? \| `([^`]+)` \|$", section("Where do I find …"), re.MULTILINE)
    assert len(table) >= 25
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    files = re.findall(r"`(\w+/[\w/]+\.py)`", PAGE)
    bases = (ROOT, ROOT / "lsqctl")
    missing = [
        path
        for path in [*table, *links, *files]
        if not any((base / path).exists() for base in bases)
    ]
    assert missing == []


def test_the_glossary_has_every_end_reason_and_state():
    rows = dict(re.findall(r"^\| ([\w ]+) \| (.+?) \|", section("Glossary"), re.MULTILINE))
    assert len(rows) >= 25
    assert re.findall(r"\w+", rows["end reason"].partition(": ")[2]) == [*EndReason]
    assert set(re.findall(r"\w+", rows["state"].partition(".")[0])) == {*RunState}


def test_no_noun_of_the_glossary_is_a_retired_word():
    nouns = re.findall(r"^\| ([\w ]+) \|", section("Glossary"), re.MULTILINE)
    assert {word for noun in nouns for word in noun.split()} & RETIRED_NAMES.keys() == set()


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_every_path_that_a_page_beside_it_names_exists(name):
    text = (ROOT / name).read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    tests = re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert links
    assert [path for path in [*links, *tests] if not (ROOT / path).exists()] == []
