"""`leaderboard --html` and `plot`, from runs that were really trained, by the real command line."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.conftest import CommandLine

PAGE = Path(__file__).resolve().parents[2] / "docs" / "page.md"
NET = """\
name: {name}
model: {{name: resnet8{weights}}}
data: {{name: digits, batch_size: 256}}
train: {{epochs: 2, lr: 0.05}}
"""


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """A folder with a full-precision run and two quantized ones, each of two epochs."""
    line = CommandLine(tmp_path_factory.mktemp("worked"))
    line.write("base.yaml", NET.format(name="base", weights=""))
    quantized = NET.format(name="q", weights=", weights: {run: base}")
    line.write(
        "q.yaml",
        quantized + "quant: {weight_bits: 4, act_bits: 4}\n"
        "sweep: {zip: {quant.weight_bits: [2, 4], quant.act_bits: [2, 4]}}\n",
    )
    line("submit", "base.yaml", "q.yaml")
    line("worker", "--until-empty")
    return line


def test_the_page_has_the_table_and_the_runs_with_their_step_sizes(worked):
    done = worked("leaderboard", "--html", "board.html")
    page = (worked.folder / "board.html").read_text()
    assert "board.html: 6 rows" in done.stderr
    assert done.stdout == ""
    for words in ("q-w2a2", "q-w4a4", "Step sizes of weights", "Top-1 against size"):
        assert words in page
    worked("leaderboard", "--html", "again.html")
    assert (worked.folder / "again.html").read_text() == page


def test_the_page_of_one_dataset_has_no_other(worked):
    worked("leaderboard", "--dataset", "digits", "--html", "digits.html")
    assert "imagenet" not in (worked.folder / "digits.html").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ("leaderboard", "--html", "{}.html"),
        ("plot", "size", "-o", "{}.svg"),
    ],
    ids=["page", "plot"],
)
def test_a_file_is_only_written_where_it_was_meant(worked, words):
    def call(name: str, *more: str, code: int = 0) -> str:
        return worked(*(word.format(name) for word in words), *more, code=code).stderr

    ending = words[-1][2:]
    kept = worked.write(f"kept{ending}", "mine")
    assert "kept" in call("kept", code=2)
    assert "--force" in call("kept", code=2)
    assert kept.read_text() == "mine"
    call("kept", "--force")
    assert kept.read_text() != "mine"
    link = worked.folder / f"link{ending}"
    link.symlink_to(worked.write("target", "mine"))
    assert "link" in call("link", "--force", code=2)
    assert (worked.folder / "target").read_text() == "mine"
    error = call("no/such/folder", code=2)
    assert "cannot write" in error
    assert len([line for line in error.splitlines() if line.startswith("error")]) == 1


@pytest.mark.parametrize(
    "kind",
    [
        "size",
        "bops",
        "bits --dataset digits",
        "curves q-w2a2 q-w4a4",
        "curves @last --metric epoch_loss --split train",
        "steps @last",
        "ablation quant.weight_bits",
        "ablation quant.weight_bits --sweep q",
    ],
)
def test_every_plot_is_drawn_in_the_terminal_and_in_a_file(worked, kind):
    drawn = worked("plot", *kind.split(), COLUMNS="60").stdout
    assert max(map(len, drawn.splitlines())) <= 60
    assert "└──" in drawn
    worked("plot", *kind.split(), "-o", "plot.svg", "--force")
    assert ET.parse(worked.folder / "plot.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("curves @last --metric los", 3, "did you mean `loss/val`?"),
        ("ablation quant.weight_bit", 3, "did you mean `quant.weight_bits`?"),
        ("ablation quant.weight_bits --sweep qq", 3, "q"),
        ("steps base", 3, "no step sizes"),
        ("size --dataset imagenet", 3, "no row of it has a size"),
        ("size --dataset digit", 3, "did you mean `digits`?"),
        ("size -o plot.gif", 2, ".svg, .pdf or .png"),
        ("curves nothing", 3, "nothing"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(worked, words, code, said):
    done = worked("plot", *words.split(), code=code)
    assert said in done.stderr
    assert done.stdout == ""
    assert len([line for line in done.stderr.splitlines() if line.startswith("error")]) == 1


def test_without_matplotlib_a_file_is_refused_in_one_line_and_the_terminal_works(worked):
    hidden = worked.folder / "hidden" / "matplotlib"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError('matplotlib')")
    path = ":".join([str(hidden.parent), *filter(None, sys.path)])
    done = worked("plot", "size", "-o", "absent.svg", code=2, PYTHONPATH=path)
    assert "pip install 'lsqctl[plot]'" in done.stderr
    assert "└──" in worked("plot", "size", PYTHONPATH=path).stdout


def test_every_command_of_the_page_about_it_runs(worked):
    commands = re.findall(r"^\$ lsqctl (.+)$", PAGE.read_text(), re.MULTILINE)
    assert len(commands) > 8
    for name in ("board.html", "size.pdf", "bops.svg", "bits.png", "loss.pdf", "ablation.svg"):
        (worked.folder / name).unlink(missing_ok=True)
    for command in commands:
        worked(*command.split())
