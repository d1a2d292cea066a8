"""Every command of every page of docs/ runs in some test; those of long runs are recorded only."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.made_up import fill

ROOT = Path(__file__).resolve().parent.parent
RECORDED = {"results.md"}  # hours, and data that is not ours to ship
# Pages with a test of their own, which runs their commands.
OWNED = {
    "comparing.md": "tests/test_comparing_page.py",
    "page.md": "tests/cli/test_page_and_plot.py",
    "quantization.md": "tests/test_quantization_page.py",
    "views.md": "tests/test_views_page.py",
}
COMMANDS = [
    (page.name, command)
    for page in sorted((ROOT / "docs").glob("*.md"))
    for command in re.findall(r"^\$ lsqctl (.*)$", page.read_text("utf-8"), re.MULTILINE)
    if page.name not in RECORDED
]


def test_pages_with_a_test_of_their_own_are_named_in_it():
    for page, test in OWNED.items():
        text = (ROOT / test).read_text("utf-8")
        assert page in text, f"{test} does not read docs/{page}"
        assert "COMMANDS" in text or "findall" in text, test


@pytest.mark.parametrize(("page", "command"), [one for one in COMMANDS if one[0] not in OWNED])
def test_a_command_of_the_docs_runs(here, page, command):
    fill(here.folder)
    told = here(*shlex.split(command, comments=True))
    assert told.stdout or told.stderr, page
