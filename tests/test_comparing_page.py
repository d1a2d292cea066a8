"""docs/comparing.md tells the truth: its commands run, and its file is one that can be imported."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "comparing.md").read_text("utf-8")


def test_every_command_of_the_page_runs_and_its_file_is_imported(cli):
    (tables,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    cli.write("tables.json", tables)
    commands = re.findall(r"^\$ lsqctl (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 6
    told = [cli(*shlex.split(command)).stderr for command in commands]
    assert told[0].startswith("4 published results")
    assert "ResNet-20 ours (cifar10): added" in told[2]
    assert "would be removed" in told[3]
    assert "1 row imported, 0 were there already" in told[5]
