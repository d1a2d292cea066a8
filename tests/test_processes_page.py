"""docs/processes.md tells the truth: its recipe, its commands, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "processes.md").read_text()


def test_its_commands_do_what_they_say(here):
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (here.folder / "shared.yaml").write_text(recipe)
    first, second = re.findall(r"^\$ lsqctl (submit .*)\n", PAGE, re.MULTILINE)
    assert "queued" in here(*first.split()).stdout
    (refusal,) = re.findall(r"^error: .*", PAGE, re.MULTILINE)
    assert refusal in here(*second.split(), code=2).stderr
