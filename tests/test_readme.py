"""The README tells the truth: its commands run, its code runs, its paths exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CommandLine

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [line[2:].partition("  #")[0].split() for line in lines if line.startswith("$ ")]


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> CommandLine:
    """A folder in which every command of the README ran, in order."""
    line = CommandLine(tmp_path_factory.mktemp("readme"))
    for program, *words in commands():
        assert program == "lsqctl"
        line(*words)
    return line


def test_every_command_runs_in_an_empty_folder(walked):
    assert len(commands()) > 15
    assert (walked.folder / "board.csv").read_text().startswith("rank,model,")
    assert "digits/resnet8-w4a4" in walked("leaderboard").stdout


@pytest.mark.parametrize("page", ["layers.md", "conformance.md"])
def test_every_command_of_a_page_runs_after_them(walked, page):
    text = (ROOT / "docs" / page).read_text()
    found = re.findall(r"^\$ lsqctl (.+?)(?:  #|$)", text, re.MULTILINE)
    assert len(found) >= 2
    for line in found:
        assert walked(*line.split()).stdout


def test_every_python_block_runs(walked):
    library, loading = blocks("python")
    for code in (library, loading + "\nassert not model.training"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=walked.folder,
            env=walked.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_every_place_it_points_to_exists():
    table = re.findall(r"^\| .+? \| `([^`]+)` \|$", README, re.MULTILINE)
    links = [one for one in re.findall(r"\]\(([^)]+)\)", README) if "://" not in one]
    assert len(table) >= 15
    assert [one for one in [*table, *links] if not (ROOT / one).exists()] == []


def test_the_tree_names_every_package_and_no_other():
    tree = re.search(r"^```\n(lsqctl/  .*?)^```", README, re.MULTILINE | re.DOTALL)
    assert tree
    rows = [line.strip() for line in tree[1].splitlines() if line.startswith("  ")]
    lines = [re.split(r"\s{2,}", row)[0].split() for row in rows]
    named = {word.rstrip("/") for words in lines for word in words}
    real = {
        path.name
        for path in (ROOT / "lsqctl").iterdir()
        if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py")
    }
    assert named == real


def test_no_page_names_a_path_of_one_machine():
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "db").glob("*.md")]:
        text = path.read_text()
        assert not re.search(r"(?<![\w.])/(home|work|root|tmp|opt)/", text), path
