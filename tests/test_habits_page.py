"""docs/habits.md names, for each of 25 habits, tests that exist; and nothing asks a network."""

from __future__ import annotations

import ast
import re
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "habits.md").read_text("utf-8")
ROWS = {int(row[1]): row[2] for row in re.finditer(r"^\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE)}


def named(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


def test_all_25_habits_are_there_and_each_names_a_test():
    assert list(ROWS) == list(range(1, 26))
    assert not [number for number, text in ROWS.items() if not named(text)]


def test_every_test_that_the_page_names_exists():
    for path, name in named(PAGE):
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{path} has no {name}"


@pytest.mark.parametrize("command", ["submit digits/resnet8-w4a4", "leaderboard", "bugreport"])
def test_looking_and_submitting_open_no_connection(here, monkeypatch, command):
    here("submit", "digits/resnet8-fp32")

    def refuse(_: socket.socket, address: object) -> None:
        raise AssertionError(f"{command} asked {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    here(*command.split())
