"""The README tells the truth: its commands run, its code runs, its paths exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import FULL, CommandLine, run_python
from tests.worker.injected import heal, inject

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [line[2:].partition("  #")[0].split() for line in lines if line.startswith("$ ")]


def shorten_recipes(line: CommandLine, folder: Path) -> None:
    """Let what is bundled on the digits train for two epochs; `make demo` trains them whole."""
    for name in ("db", "lsqctl"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    for path in (folder / "recipes" / "digits").glob("*.yaml"):
        path.write_text(re.sub(r"epochs: \d+", "epochs: 2", path.read_text()))
    inject(line, bundled=f"_PACKAGE = Path({str(folder / 'lsqctl')!r})")


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> CommandLine:
    """A folder in which every command of the README ran, in order."""
    line = CommandLine(tmp_path_factory.mktemp("readme"))
    if not FULL:
        shorten_recipes(line, tmp_path_factory.mktemp("short"))
    for program, *words in commands():
        assert program == "lsqctl"
        line(*words)
    if not FULL:
        heal(line)
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
    package, library = blocks("python")
    proven = "\nassert not model.training and len(board) and answer and len(waiting) >= 2"
    for code in (package + proven, library):
        run_python(code, walked.folder, walked.environment)


def test_every_path_it_points_to_exists():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_its_index_names_every_page():
    index = README.partition("## Documentation")[2].partition("\n## ")[0]
    linked = re.findall(r"\]\(([^)]+)\)", index)
    pages = {*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")} - {ROOT / "README.md"}
    pages |= {ROOT / "db" / "README.md", ROOT / "recipes" / "README.md"}
    assert sorted(linked) == sorted(str(path.relative_to(ROOT)) for path in pages)


def test_no_page_names_a_path_of_one_machine():
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "db").glob("*.md")]:
        text = path.read_text()
        assert not re.search(r"(?<![\w.])/(home|work|root|tmp|opt)/", text), path
