"""docs/faults.md names, for every fault, tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "faults.md").read_text()
ROWS = {int(row[1]): row[2] for row in re.finditer(r"^\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE)}


def named(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


def test_faults_are_numbered_without_a_gap_and_each_names_a_test():
    assert list(ROWS) == list(range(1, len(ROWS) + 1))
    assert not [number for number, text in ROWS.items() if not named(text)]


def test_every_test_that_the_page_names_exists():
    for path, name in named(PAGE):
        tree = ast.parse((ROOT / path).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{path} has no {name}"
