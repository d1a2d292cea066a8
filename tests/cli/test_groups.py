"""The help groups its commands by subject, and a stranger's word gets the command that it means."""

import pytest
import typer.main

from lsqctl.cli.app import app
from lsqctl.cli.groups import INSTEAD, SECTIONS, WORDS_IN_GROUPS

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


def test_a_key_at_the_top_level_gets_the_option_that_sets_it(here):
    error = here("train.epochs=3", code=2).stderr
    assert error.endswith("a key is changed by `lsqctl submit RECIPE --set train.epochs=3`\n")


GROUPS = {name: found for name, found in COMMANDS.items() if hasattr(found, "commands")}


def test_what_a_command_does_fits_its_line_of_the_help():
    for group in ({"commands": COMMANDS}, *map(vars, GROUPS.values())):
        commands = group["commands"]
        room = 78 - 6 - max(map(len, commands))
        for command in commands.values():
            assert command.get_short_help_str(room) == command.get_short_help_str(1000)


@pytest.mark.parametrize("word", WORDS_IN_GROUPS)
def test_a_word_of_other_tools_gets_the_first_of_its_meanings_that_a_group_has(here, word):
    groups = [
        (name, meant)
        for name, group in GROUPS.items()
        for meant in [next((one for one in WORDS_IN_GROUPS[word] if one in group.commands), None)]
        if meant is not None and word not in group.commands
    ]
    assert groups, f"no group has any of {WORDS_IN_GROUPS[word]}"
    for name, meant in groups:
        assert here(name, word, code=2).stderr == (
            f"error: no command is named `lsqctl {name} {word}`; did you mean `{meant}`?\n"
        )


def test_a_command_of_the_top_level_is_named_where_a_group_is_asked_for_it(here):
    told = here("runs", "submit", "digits/resnet8-fp32", code=2).stderr
    assert told.endswith("; did you mean `lsqctl submit`?\n")


def test_a_misspelled_command_gets_the_nearest(here):
    assert "`lsqctl leaderbord`; did you mean `leaderboard`?" in here("leaderbord", code=2).stderr
    assert "`lsqctl runs shwo`; did you mean `show`?" in here("runs", "shwo", code=2).stderr
    assert "`lsqctl runs xyz`; --help lists them" in here("runs", "xyz", code=2).stderr
