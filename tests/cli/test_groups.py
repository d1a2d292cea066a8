"""The help groups its commands by subject, and a stranger's word gets the command that it means."""

import pytest
import typer.main

from lsqctl.cli.app import app
from lsqctl.cli.groups import INSTEAD, SECTIONS

COMMANDS = typer.main.get_command(app).commands


def test_every_command_stands_under_one_heading():
    names = [name for section in SECTIONS.values() for name in section]
    assert sorted(names) == sorted(COMMANDS)


def test_the_help_has_the_headings_and_a_line_for_each_command(here):
    lines = here("--help").stdout.splitlines()
    assert [line for line in lines if line in {f"{name}:" for name in SECTIONS}] == [
        f"{name}:" for name in SECTIONS
    ]
    listed = {line.split()[0] for line in lines if line.startswith("  ") and line.strip()}
    assert set(COMMANDS) <= listed


@pytest.mark.parametrize("word", INSTEAD)
def test_a_word_of_other_tools_gets_a_command_that_exists(here, word):
    assert word not in COMMANDS
    group, *rest = INSTEAD[word].split()
    if not group.startswith("-"):
        assert group in COMMANDS
        assert all(name.startswith("-") or name in COMMANDS[group].commands for name in rest)
    error = here(word, code=2).stderr
    assert error == (
        f"error: no command is named `lsqctl {word}`; did you mean `lsqctl {INSTEAD[word]}`?\n"
    )


def test_a_misspelled_command_gets_the_nearest(here):
    assert "`lsqctl leaderbord`; did you mean `leaderboard`?" in here("leaderbord", code=2).stderr
    assert "`lsqctl runs shwo`; did you mean `show`?" in here("runs", "shwo", code=2).stderr
    assert "`lsqctl runs xyz`; --help lists them" in here("runs", "xyz", code=2).stderr
