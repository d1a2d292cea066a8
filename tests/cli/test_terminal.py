"""What a person sees in a terminal: nothing wraps, ids are whole, colour can be turned off."""

from __future__ import annotations

import os
import re

import pytest
from rich.cells import cell_len

from lsqctl.run import EndReason
from lsqctl.store import open_store
from tests.conftest import CommandLine
from tests.services.test_compare import done
from tests.store.samples import identity, new, submit, take
from tests.terminal import Terminal, start_there

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\]8;[^\x1b]*\x1b\\")


def seen(line: CommandLine, columns: int, *words: str, **environment: str) -> str:
    """Return what a command draws on a terminal of so many columns."""
    environment = {"TERM": "xterm-256color"} | environment
    with Terminal(columns, 50) as terminal, open(os.devnull, "w") as nowhere:
        streams = (terminal.inner, terminal.inner, nowhere.fileno())
        process = start_there(line, list(words), streams, environment=environment)
        terminal.leave()
        text = terminal.screen()
        assert process.wait() == 0, text
        return text


@pytest.fixture(scope="module")
def queued(tmp_path_factory) -> CommandLine:
    line = CommandLine(tmp_path_factory.mktemp("terminal"))
    line("submit", "digits/resnet8-lsq")
    return line


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize(
    "words", [["runs", "ls"], ["leaderboard"], ["recipe", "ls"], ["runs", "show", "@last"]]
)
def test_no_line_is_wider_than_the_terminal(queued, columns, words):
    for text in ESCAPES.sub("", seen(queued, columns, *words)).splitlines():
        prose = "rank counts" in text or "Top-1 on" in text  # a sentence may fold
        assert cell_len(text) <= columns or prose, text


@pytest.mark.parametrize("columns", [40, 80])
def test_an_id_is_never_cut(queued, columns):
    text = ESCAPES.sub("", seen(queued, columns, "runs", "ls"))
    for run_id in queued("runs", "ls", "-q").stdout.split():
        assert run_id in text


LONG_NAME = "cifar10/a-network-of-a-long-name-w4a4"


@pytest.fixture(scope="module")
def failed(tmp_path_factory) -> CommandLine:
    """A run with a long name that failed for a long reason, with a tag and a note."""
    line = CommandLine(tmp_path_factory.mktemp("failed"))
    (line.folder / ".lsqctl").mkdir(mode=0o700)
    with open_store(f"sqlite:///{line.folder}/.lsqctl/lsqctl.db") as store:
        store.workers.register(identity("w1"))
        submit(store, new(LONG_NAME, sweep="sweep", cell=LONG_NAME))
        store.queue.fail(take(store).lease, EndReason.DATA, "a sentence that has no end " * 9)
    line("runs", "tag", "@last", "+paper")
    line("runs", "note", "@last", "a note that " + "goes on and " * 9)
    return line


@pytest.mark.parametrize("columns", [40, 100])
def test_a_run_is_shown_whole_however_long_its_fields_are(failed, columns):
    lines = ESCAPES.sub("", seen(failed, columns, "runs", "show", "@last")).splitlines()
    assert lines[0].split()[0] == "run"
    text = " ".join(" ".join(lines).split())
    assert text.count("a sentence that has no end") >= 9
    assert text.count("goes on and") == 9


def test_a_table_of_comparisons_cuts_names_before_verdicts(tmp_path):
    line = CommandLine(tmp_path)
    (line.folder / ".lsqctl").mkdir(mode=0o700)
    with open_store(f"sqlite:///{line.folder}/.lsqctl/lsqctl.db") as store:
        store.workers.register(identity("w1"))
        for bits in ("w2a2", "w4a4"):
            done(store, f"{LONG_NAME}-{bits}", 9, sweep="both")
        done(store, f"{LONG_NAME}-base", 8)
    rows = ESCAPES.sub("", seen(line, 80, "compare", "both", f"{LONG_NAME}-base")).splitlines()
    assert [row.split()[-1] for row in rows].count("undecided") >= 2
    answer = rows[: next(n for n, row in enumerate(rows) if row.startswith("A "))]
    assert "against" in " ".join(answer)
    assert max(map(len, answer)) <= 80


@pytest.mark.parametrize(
    ("columns", "hidden", "shown"),
    [
        (40, "reason Top-1 epoch seed tags note created", "run state"),
        (60, "created note tags epoch seed", "run state reason"),
        (100, "created", "seed epoch reason tags note run state"),
    ],
)
def test_what_matters_least_gives_way_first_and_never_an_id_or_a_state(
    failed, columns, hidden, shown
):
    heading, row, *_ = ESCAPES.sub("", seen(failed, columns, "runs", "ls")).splitlines()
    (run_id,) = failed("runs", "ls", "-q").stdout.split()
    assert run_id in row
    assert "failed" in row
    assert row.split()[1].startswith("cifar10/")
    assert "-w4a4 " in row
    assert [word for word in shown.split() if word not in heading] == []
    assert [word for word in hidden.split() if word in heading] == []


@pytest.mark.parametrize(
    "words",
    [("sweep", "status"), ("runs", "rm", "@last", "--dry-run")],
    ids=" ".join,
)
def test_no_table_of_runs_cuts_an_id_or_a_state(failed, words):
    text = ESCAPES.sub("", seen(failed, 40, *words))
    (run_id,) = failed("runs", "ls", "-q").stdout.split()
    assert run_id in text
    assert re.search(r"\bfailed\b", text)


def test_colour_is_on_in_a_terminal_and_off_by_no_color(queued):
    assert "\x1b[" in seen(queued, 100, "runs", "ls")
    plain = seen(queued, 100, "runs", "ls", NO_COLOR="1")
    assert not re.search(r"\x1b\[3[0-7]m", plain)


def test_a_dumb_terminal_gets_no_escape_and_columns_sets_the_width(queued):
    assert "\x1b" not in seen(queued, 100, "leaderboard", TERM="dumb")
    assert "\x1b[" in queued("leaderboard", FORCE_COLOR="1").stdout
    wide = ESCAPES.sub("", seen(queued, 60, "leaderboard", COLUMNS="100"))
    assert max(map(cell_len, wide.splitlines())) > 60


def test_a_worker_draws_its_runs_while_they_train(queued):
    queued.write("tiny.yaml", "model: {name: resnet8}\ndata: {name: digits, batch_size: 64}\n")
    words = ["run", "tiny.yaml", "--set", "train.epochs=8", "--home", "other"]
    with Terminal(100, 30) as terminal, open(os.devnull, "w") as nowhere:
        process = start_there(queued, words, (terminal.inner, nowhere.fileno(), terminal.inner))
        terminal.leave()
        text = terminal.screen()
        assert process.wait() == 0
    assert "1 running" in text
    assert re.search(r"[1-7]/8", text)
    assert "succeeded in" in text
