"""Laws of `watch` and `runs logs -f`: what a person sees while others work."""

from __future__ import annotations

import json
import math
import os
import signal

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from lsqctl.cli.watch import sparkline
from lsqctl.events import Metric, Progress
from lsqctl.run import EndReason, RunState
from lsqctl.services.logs import follow_log
from lsqctl.store import Store, open_store
from tests.cli.test_terminal import ESCAPES, seen
from tests.conftest import TINY, CommandLine, wait_for
from tests.store.samples import identity, no_back_off, submit, take
from tests.store.samples import new as new_run


def store_of(cli: CommandLine) -> Store:
    return open_store(f"sqlite:///{cli.folder / '.lsqctl' / 'lsqctl.db'}")


@pytest.fixture(scope="module")
def busy(tmp_path_factory) -> CommandLine:
    """A queue with everything in it: running, failed, put back, a silent worker."""
    line = CommandLine(tmp_path_factory.mktemp("busy"))
    with open_store(f"sqlite:///{line.folder / '.lsqctl' / 'lsqctl.db'}") as store:
        store.workers.register(identity("w1"))
        names = ["digits/a-run-with-quite-a-long-name-w4a4", "b", "c", "d", "\x1b[2Jhostile"]
        submit(store, *(new_run(name, epochs=10) for name in names))
        claim = take(store)
        store.metrics.resume_at(claim.lease, None)
        store.metrics.start_at(claim.lease, 0)
        points = [Metric("loss", "train", step, math.exp(-step / 9)) for step in range(40)]
        points += [Metric("top1", "val", step, 90 + step / 5) for step in range(0, 40, 10)]
        points += [Metric("lr", "train", 39, math.nan)]
        store.metrics.log(claim.lease, points, Progress(40, 100, 4, 10))
        store.queue.fail(take(store).lease, EndReason.OOM, "CUDA out of memory")
        store.queue.fail(take(store).lease, EndReason.INFRA, "disk full")
    return line


def test_a_pipe_gets_one_plain_look_with_all_that_matters(busy):
    text = busy("watch").stdout
    assert "3 queued · 1 running · 1 failed" in text.replace("2 queued", "3 queued")
    for told in ("4/10", "96.00", "█", "name", "CUDA out of memory", "requeued: c", "disk full"):
        assert told in text, told
    assert "\x1b" not in text
    assert text == busy("watch", "--once").stdout or "heartbeat" in text


def test_the_look_in_json_is_complete(busy):
    data = json.loads(busy("watch", "--json").stdout)
    assert data["schema_version"] == 2
    assert data["running"][0]["loss"][-1] == pytest.approx(math.exp(-39 / 9))
    assert data["running"][0]["seconds_left"] > 0
    assert data["first_failure"]["reason"] == "oom"
    assert data["retrying"][0]["message"] == "disk full"
    assert data["workers"][0]["running_runs"] == 1


def test_json_has_no_nan_which_is_none_of_its_values(busy):
    (run_id,) = busy("runs", "ls", "--state", "running", "-q").stdout.split()
    said = busy("runs", "show", run_id, "--json").stdout
    metrics = json.loads(said, parse_constant=pytest.fail)["metrics"]
    assert [one["last"] for one in metrics if one["name"] == "lr"] == ["nan"]


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_top1_is_always_there(busy, columns):
    text = ESCAPES.sub("", seen(busy, columns, "watch", "--once"))
    assert all(cell_len(line) <= columns for line in text.splitlines()), text
    assert "96.00" in text


def test_80_columns_keep_epoch_loss_and_time_left(busy):
    text = ESCAPES.sub("", seen(busy, 80, "watch", "--once"))
    heading = next(line for line in text.splitlines() if line.startswith("run "))
    assert heading.split() == ["run", "id", "epoch", "loss", "Top-1", "%", "left"]


@pytest.mark.parametrize("words", [["doctor"], ["runs", "gc"]], ids=" ".join)
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_other_lists_do_not_wrap_either(busy, columns, words):
    text = ESCAPES.sub("", seen(busy, columns, *words))
    assert all(cell_len(line) <= columns for line in text.splitlines()), text
    assert words != ["doctor"] or "…" not in text


def test_where_all_is_held_no_worker_is_asked_for(here):
    with open_store(f"sqlite:///{here.folder / '.lsqctl' / 'lsqctl.db'}") as store:
        (run_id,) = submit(store, new_run("a", epochs=1))
        store.runs.hold(run_id)
    assert "next: lsqctl runs release RUN" in here("watch", "--once").stdout


def test_ctrl_c_ends_a_watch_quietly_with_0(busy):
    process = busy.start("watch", "--interval", "0.2s")
    while "queued" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in rest


def test_it_ends_by_itself_when_nothing_is_unfinished(cli):
    with open_store(f"sqlite:///{cli.folder / '.lsqctl' / 'lsqctl.db'}") as store:
        (run,) = submit(store, new_run("a"))
        process = cli.start("watch", "--until-empty", "--interval", "0.2s", "--json")
        assert json.loads(_json_line(process))["counts"]["queued"] == 1
        store.runs.cancel(run)
    assert process.wait(30) == 0


def _json_line(process) -> str:
    while not (line := process.stdout.readline()).startswith("{"):
        assert line
    return line


def test_an_interval_must_be_a_time_and_not_with_once(busy):
    busy("watch", "--interval", "0", code=2)
    busy("watch", "--interval", "1s", "--once", code=2)
    busy("watch", "--sweep", "none", code=3)


@given(st.lists(st.floats(), max_size=40))
def test_a_sparkline_has_a_bar_a_value_and_a_cross_for_what_is_no_number(values):
    drawn = sparkline(values, 12)
    assert len(drawn) == min(12, len(values))
    shown = values[-12:]
    assert [bar == "×" for bar in drawn] == [not math.isfinite(value) for value in shown]


def test_a_sparkline_goes_from_the_least_to_the_greatest():
    assert sparkline([1, 2, 3]) == "▁▅█"
    assert sparkline([5, 5]) == "▄▄"


@pytest.mark.slow
def test_a_followed_log_goes_on_into_the_attempt_after_a_kill_and_loses_no_line(cli):
    cli.write("mine.yaml", TINY.replace("epochs: 2", "epochs: 14").replace("256", "64"))
    run_id = cli("submit", "mine.yaml", "-q").stdout.split()[-1]
    follower = cli.start("runs", "logs", "-f", run_id)
    worker = cli.start("worker", "--until-empty", "--slots", "2")
    with store_of(cli) as store:
        wait_for(lambda: store.runs.detail(run_id).run.step >= 30)
        children = psutil.Process(worker.pid).children()
        os.killpg(children[0].pid, signal.SIGKILL)
        assert worker.wait(120) == 0
        assert store.runs.detail(run_id).run.attempt == 2
    assert follower.wait(60) == 0
    told = follower.stdout.read()
    folder = cli.folder / ".lsqctl" / "runs" / run_id
    logs = [(folder / f"attempt-{n}.log").read_text() for n in (1, 2)]
    assert all(logs)
    assert told.endswith("--- attempt 2 ---\n".join(logs))


def test_a_character_cut_in_two_by_a_read_is_whole_and_a_last_line_ends(cli):
    folder = cli.folder / "run"
    folder.mkdir()
    with (
        open_store(f"sqlite:///{cli.folder}/home/lsqctl.db") as store,
        (folder / "attempt-1.log").open("wb", buffering=0) as log,
    ):
        store.workers.register(identity("w1"))
        (run_id,) = submit(store, new_run("a"))
        claim = take(store)
        log.write("é".encode()[:1])
        pieces = follow_log(store, run_id, folder)
        log.write("é".encode()[1:] + b" no newline")
        told = next(pieces)
        store.queue.fail(claim.lease, EndReason.INFRA, "")
        log.write("ü".encode()[:1])  # killed in the middle of a character
        no_back_off(store)
        again = take(store)
        (folder / "attempt-2.log").write_text("second\n")
        store.queue.fail(again.lease, EndReason.OOM, "")
        told += "".join(pieces)
        assert store.runs.detail(run_id).run.state is RunState.FAILED
    assert told == "é no newline\ufffd\n--- attempt 2 ---\nsecond\n"
