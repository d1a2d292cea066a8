"""docs/search.md, sharing.md and tracking.md tell the truth: their commands run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.made_up import fill

DOCS = Path(__file__).resolve().parent.parent / "docs"
# These train for minutes: their options are looked up in their help.
BY_HELP = ("sweep search", "run")


def blocks(page: str, kind: str) -> list[str]:
    text = (DOCS / page).read_text("utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """Return the commands of a page, without what a shell does with their output."""
    shown = re.findall(r"^\$ lsqctl (.*)$", "".join(blocks(page, "console")), re.MULTILINE)
    return [command.partition(" >")[0] for command in shown]


@pytest.mark.parametrize(
    ("page", "count"), [("search.md", 1), ("sharing.md", 4), ("tracking.md", 1)]
)
def test_every_command_runs_or_has_the_options_shown(here, page, count):
    theirs = here.folder / "theirs"
    fill(theirs)
    shutil.copytree(theirs / ".lsqctl", here.folder / "ours" / ".lsqctl")
    here.enter(here.folder / "ours")
    assert len(commands(page)) == count
    for command in commands(page):
        long = [name for name in BY_HELP if command.startswith(f"{name} ")]
        if long:
            told = here(*long[0].split(), "--help").stdout
            assert all(option in told for option in re.findall(r"--[a-z-]+", command)), command
        else:
            told = here(*shlex.split(command))
            assert told.stdout or told.stderr
