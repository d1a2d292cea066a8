"""docs/views.md tells the truth: its commands run, and its table names every format."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from lsqctl.leaderboard.formats import formats_markdown
from tests.made_up import fill

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "views.md").read_text("utf-8")
COMMANDS = re.findall(r"^\$ lsqctl (.*)$", PAGE, re.MULTILINE)


def test_every_command_of_the_page_runs_and_finds_something(here):
    fill(here.folder)
    assert len(COMMANDS) == 20
    for command in COMMANDS:
        told = here(*shlex.split(command))
        assert told.stdout or "bytes" in told.stderr, command
    assert "model-index" in (here.folder / "card.yaml").read_text()


def test_the_table_names_every_format_and_ending():
    assert formats_markdown() in PAGE
