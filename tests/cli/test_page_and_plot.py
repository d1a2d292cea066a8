"""`leaderboard --html` and `plot`, from runs that were really trained, by the real command line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from lsqctl.cli.app import app
from lsqctl.errors import NotFound, UsageError
from tests.conftest import CommandLine

PAGE = Path(__file__).resolve().parents[2] / "docs" / "page.md"
FILES = (".svg", ".pdf", ".png")
NET = """\
name: {name}
model: {{name: resnet8{weights}}}
data: {{name: digits, batch_size: 256}}
train: {{epochs: 1, lr: 0.05}}
"""


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """A folder with a full-precision run and two quantized ones, each of one epoch."""
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


@pytest.fixture
def inside(worked, monkeypatch, capsys):
    """Call a command in this process, in that folder; return what it printed."""
    monkeypatch.chdir(worked.folder)
    for name in ("LSQCTL_HOME", "LSQCTL_DB", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "60")

    def call(*words: str) -> str:
        app(args=list(words), standalone_mode=False)
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize(
    "words",
    [("leaderboard", "--html", "{}.html"), ("plot", "size", "-o", "{}.svg")],
    ids=["page", "plot"],
)
def test_a_file_is_only_written_where_it_was_meant(worked, inside, words):
    def call(name: str, *more: str) -> None:
        inside(*(word.format(name) for word in words), *more)

    ending = words[-1][2:]
    kept = worked.write(f"kept{ending}", "mine")
    with pytest.raises(UsageError, match=r"kept.* exists; --force"):
        call("kept")
    assert kept.read_text() == "mine"
    call("kept", "--force")
    assert kept.read_text() != "mine"
    (worked.folder / f"link{ending}").symlink_to(worked.write("target", "mine"))
    with pytest.raises(UsageError, match="is a link"):
        call("link", "--force")
    assert (worked.folder / "target").read_text() == "mine"
    with pytest.raises(UsageError, match=r"cannot write no/such.*: No such file"):
        call("no/such/folder")
    assert not [one for one in worked.folder.iterdir() if one.name.endswith(".tmp")]


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
def test_every_plot_is_drawn_in_the_terminal_and_fits(inside, kind):
    drawn = inside("plot", *kind.split())
    assert max(map(len, drawn.splitlines())) <= 60
    assert "└──" in drawn


def test_an_ablation_of_a_quantizers_key_leaves_out_full_precision(inside):
    legend = inside("plot", "ablation", "quant.init").splitlines()[-1]
    assert "W4A4" in legend
    assert "W32A32" not in legend
    assert "W32A32" in inside("plot", "ablation", "train.momentum").splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ("curves @last --metric los", NotFound, "did you mean `loss`?"),
        ("ablation quant.weight_bit", NotFound, "did you mean `quant.weight_bits`?"),
        ("ablation quant.weight_bits --sweep qq", NotFound, "did you mean `q`?"),
        ("steps base", NotFound, "no step sizes"),
        ("size --dataset imagenet", NotFound, "no row of it has a size"),
        ("size --dataset digit", NotFound, "did you mean `digits`?"),
        ("size -o plot.gif", UsageError, ".svg, .pdf or .png"),
        ("curves nothing", NotFound, "nothing"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(inside, words, error, said):
    with pytest.raises(error) as raised:
        inside("plot", *words.split())
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_matplotlib_a_file_is_refused_in_one_line_and_the_terminal_works(worked):
    hidden = worked.folder / "hidden" / "matplotlib"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError('matplotlib')")
    path = ":".join([str(hidden.parent), *filter(None, sys.path)])
    done = worked("plot", "size", "-o", "absent.svg", code=2, PYTHONPATH=path)
    assert "pip install 'lsqctl[plot]'" in done.stderr
    assert "└──" in worked("plot", "size", PYTHONPATH=path).stdout


def test_every_command_of_the_page_about_it_runs(worked, inside):
    commands = re.findall(r"^\$ lsqctl (.+)$", PAGE.read_text(), re.MULTILINE)
    assert len(commands) > 8
    files = [word for command in commands for word in command.split() if word[-4:] in FILES]
    for name in {*files, "board.html"}:
        (worked.folder / name).unlink(missing_ok=True)
    for command in commands:
        inside(*command.split())
    assert all((worked.folder / name).stat().st_size > 1000 for name in files)
