"""`leaderboard` and `export` on a made-up workspace: views, files, widths, and one clear line."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from lsqctl.cli.table import render_table, visible_columns
from lsqctl.leaderboard.output import board_tables
from lsqctl.leaderboard.published_results import load_bundled_results
from lsqctl.leaderboard.rank import rank
from lsqctl.leaderboard.table_view import board_view
from lsqctl.services.board import BoardSelection, build_board
from lsqctl.services.diff import with_deviations
from lsqctl.store import open_store
from tests.conftest import CommandLine
from tests.inside import Here
from tests.leaderboard.rows import failed, row
from tests.made_up import fill

GOLDEN = Path(__file__).parent / "golden"
OWN = ("--published", "none")


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("board")
    fill(folder)
    return folder


@pytest.fixture
def made(filled, here) -> Here:
    here.enter(filled)
    return here


def first_column(text: str) -> list[str]:
    return [line.split(",")[0] for line in text.splitlines()[1:]]


def test_a_filter_chooses_what_is_ranked_and_one_on_ranks_what_is_shown(made):
    words = ("leaderboard", *OWN, "--format", "csv", "--columns", "weight_bits,rank", "--where")
    assert made(*words, "weight_bits < 4").stdout.splitlines() == ["weight_bits,rank", "3,1", "2,2"]
    assert made(*words, "rank > 1").stdout.splitlines() == ["weight_bits,rank", "2,3"]
    mixed = made(*words, "weight_bits < 4 and (rank = 1 or weight_bits = 2)").stdout
    assert mixed.splitlines() == ["weight_bits,rank", "3,1", "2,2"]


def test_a_filter_of_runs_drops_no_failure_in_silence(made):
    text = made("leaderboard", *OWN, "--where", "method = 'lsq' and weight_bits = 2").stdout
    assert "local, 1 failed" in text
    assert "1 group, 4 runs (1 failed)" in text


def test_a_filter_that_is_none_is_shown_with_a_caret_at_its_place(made):
    for command in (["leaderboard"], ["export", "x.csv"]):
        done = made(*command, "--where", "weight_bits <= 4 and datset = 'x'", code=2)
        lines = done.stderr.splitlines()
        place = next(n for n, text in enumerate(lines) if "weight_bits <= 4" in text)
        assert lines[place + 1].index("^") == lines[place].index("datset")
        assert "did you mean `dataset`?" in done.stderr
        assert done.stdout == ""


def test_runs_are_filtered_by_the_same_language(made):
    found = made("runs", "ls", "-q", "--where", "state = 'failed' and seed = 3").stdout.split()
    assert len(found) == 1
    assert "no run is like that" in made("runs", "ls", "--where", "top1 > 99.9").stderr
    assert "did you mean `state`" in made("runs", "ls", "--where", "stat = 'x'", code=2).stderr


def test_the_options_of_a_view_work_together(made):
    words = ("leaderboard", *OWN, "--sort", "-weight_bits", "--limit", "2", "--format", "csv")
    assert first_column(made(*words, "--columns", "weight_bits").stdout) == ["32", "4"]
    grouped = made("leaderboard", *OWN, "--group-by", "weight_bits", "--json").stdout
    groups = [table["group"]["weight_bits"] for table in json.loads(grouped)["tables"]]
    assert groups == ["4", "3", "2", "32"]
    pivot = made("leaderboard", *OWN, "--pivot", "model,bits,n_failed", "--format", "csv").stdout
    assert pivot.splitlines()[0] == "dataset,model,bits=W2A2,bits=W3A3,bits=W4A4,bits=W32A32"
    runs = made("leaderboard", *OWN, "--per-run", "--format", "csv", "--columns", "seeds").stdout
    assert sorted(first_column(runs)) == sorted("012" * 4)
    assert "best seed of each recipe" in made("leaderboard", *OWN, "--best-seed").stdout


def test_a_filter_without_a_row_says_so_and_prints_nothing(made):
    done = made("leaderboard", "--where", "weight_bits = 7")
    assert "no row is like that" in done.stderr
    assert done.stdout == ""


def test_another_format_is_refused_with_the_nearest_and_all_there_are(made):
    done = made("leaderboard", "--format", "jsn", code=2)
    assert "no format is named `jsn`; did you mean `json`?" in " ".join(done.stderr.split())


@pytest.mark.parametrize("ending", ["csv", "json", "md", "html", "tex"])
def test_a_file_says_the_same_twice_and_is_not_overwritten_without_force(made, ending):
    made("leaderboard", "-o", f"a.{ending}", *OWN)
    made("export", f"b.{ending}", *OWN)
    first = (made.folder / f"a.{ending}").read_bytes()
    assert first == (made.folder / f"b.{ending}").read_bytes()
    assert b"digits/resnet8-w4a4" in first
    assert "--force" in made("leaderboard", "-o", f"a.{ending}", code=2).stderr
    assert (made.folder / f"a.{ending}").read_bytes() == first


def test_a_file_in_a_named_format_and_raw_with_a_word(made):
    made("leaderboard", *OWN, "-o", "card.yaml", "--format", "hf-model-index")
    assert "model-index" in json.loads((made.folder / "card.yaml").read_text())
    assert "spreadsheet" in made("leaderboard", "--format", "csv", "--raw").stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-o", "x.pdf"], "use .csv"),
        (["-o", "nowhere/x.csv"], "cannot write nowhere/x.csv: No such file or directory"),
        (["-o", "/proc/x.csv"], "cannot write /proc/x.csv"),
        (["-o", "folder.csv"], "not a plain file"),
        (["-o", "link.csv", "--force"], "is a link"),
        (["--sort", "top1_men"], "did you mean `top1_mean`"),
        (["--columns", "modle"], "did you mean `model`"),
        (["--pivot", "arch"], "ROW,COLUMN"),
        (["--pivot", "arch,bits", "--columns", "model"], "not both"),
        (["--raw"], "--raw is for CSV"),
        (["--best-seed", "--per-run"], "not both"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_clear_line_and_writes_nothing(made, words, told):
    (made.folder / "folder.csv").mkdir(exist_ok=True)
    if not (made.folder / "link.csv").is_symlink():
        (made.folder / "link.csv").symlink_to("target.csv")
    before = sorted(path.name for path in made.folder.iterdir())
    raw = ["--format", "json"] if words == ["--raw"] else []
    done = made("leaderboard", *words, *raw, code=2)
    assert told in done.stderr
    assert sorted(path.name for path in made.folder.iterdir()) == before


def test_a_full_disk_leaves_the_old_file_and_no_half_of_the_new(made):
    made("export", "full.csv", *OWN)
    before = (made.folder / "full.csv").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "lsqctl", "export", "full.csv", "--force", *OWN],
        cwd=made.folder,
        env=CommandLine(made.folder).environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700)),
    )
    assert done.returncode == 2, done.stderr
    assert "cannot write full.csv: File too large" in done.stderr
    assert (made.folder / "full.csv").read_bytes() == before
    assert not list(made.folder.glob(".lsqctl.*.tmp"))


def sample():
    """A board with all that can take room: long names, failures, published rows, four digits."""
    rows = [
        *(
            row("resnet20-w4a4", s, 9_200 + s, bops=670_000_000, size_bytes=140_000)
            for s in range(3)
        ),
        *(row("resnet20-w3a3", s, 9_150 + s, weight_bits=3, act_bits=3) for s in range(2)),
        failed("resnet20-w3a3", 2),
        row("team/project/a-very-long-name-of-a-recipe-w2a2", 0, 8_961, verified=True),
        row("resnet20-fp32", 0, 9_173, weight_bits=32, act_bits=32, size_bytes=1_080_000),
    ]
    start = {"dataset": "cifar10", "fp32_n_correct": 9_173, "fp32_n_total": 10_000}
    own = [
        one.__class__(
            **{name: getattr(one, name) for name in one.__slots__}
            | start
            | ({"n_total": 10_000} if one.n_total else {})
        )
        for one in rows
    ]
    return rank(own, [one for one in load_bundled_results() if one.dataset == "cifar10"][:3])


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_the_board_at_each_width_is_as_it_was_looked_at(width):
    (table,) = board_tables(sample())
    text = render_table(table, width).plain
    assert max(map(cell_len, text.splitlines())) <= width
    path = GOLDEN / f"board-{width}.txt"
    if os.environ.get("LSQCTL_GOLDEN"):
        path.write_text(text + "\n")
    assert text + "\n" == path.read_text()


def test_columns_give_way_one_by_one_in_a_fixed_order():
    (table,) = board_tables(sample())
    gone, before = [], {column.key for column in table.columns}
    for width in range(200, 30, -1):
        kept = {table.columns[index].key for index in visible_columns(table, width)}
        gone += sorted(before - kept)
        before = kept
    assert gone == ["gbops", "size_bytes", "n_seeds", "delta_fp32", "origin"]


def test_under_each_local_row_stands_where_it_deviates_from_the_paper(made):
    lines = made("leaderboard", *OWN, "--deviations").stdout.splitlines()
    row = next(n for n, line in enumerate(lines) if "resnet8-w3a3" in line)
    assert lines[row + 1].startswith("    deviates from paper/w3a3: data.name digits (imagenet), ")
    assert "train.weight_decay 0.0001 (5e-05)" in lines[row + 1]
    found = json.loads(made("leaderboard", *OWN, "--deviations", "--json").stdout)
    told = {one["weight_bits"]: one["deviations"] for one in found["tables"][0]["rows"]}
    assert told[32]["from"] == "paper/fp32"
    assert told[32]["keys"]["train.lr"] == {"value": "0.01", "base_value": "0.1"}
    assert "deviations" not in made("leaderboard", *OWN, "--json").stdout


@pytest.mark.parametrize("style", ["md", "html", "latex"])
def test_every_table_that_is_written_has_room_for_deviations(made, style):
    text = made("leaderboard", *OWN, "--deviations", "--format", style).stdout
    assert text.count("deviates from paper/") == 4
    assert "deviates" not in made("leaderboard", *OWN, "--format", style).stdout


def test_deviations_fold_at_words_and_no_line_is_wider_than_the_terminal(filled):
    with open_store(f"sqlite:///{filled}/.lsqctl/lsqctl.db") as store:
        (table,) = board_view(
            with_deviations(build_board(store, BoardSelection(show_published="none")), store)
        )
    lines = render_table(table, 60).plain.splitlines()
    assert max(map(cell_len, lines)) <= 60
    assert sum("deviates from" in line for line in lines) == 4
    assert "".join(lines).replace(" ", "").count("data.flipfalse(true)") == 4


@pytest.mark.parametrize("words", [("--format", "csv"), ("--pivot", "arch,bits")])
def test_a_form_without_room_for_deviations_says_so(made, words):
    told = made("leaderboard", *OWN, "--deviations", *words, code=2)
    assert told.stdout == ""
    assert "print it as table, md, html, latex or json" in told.stderr


def test_the_page_lists_deviations_below_the_table(made, tmp_path):
    made("leaderboard", *OWN, "--deviations", "--html", str(tmp_path / "b.html"))
    page = (tmp_path / "b.html").read_text()
    assert page.count("<dd>deviates from paper/") == 4
