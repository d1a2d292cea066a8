"""Stopped, orphaned, interrupted: whoever has lost its run changes nothing, and says so."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import psutil
import pytest

from lsqctl.run import EndReason, RunState
from lsqctl.worker.identity import boot_id, is_dead, this_worker
from tests.conftest import TINY, CommandLine, wait_for
from tests.terminal import Terminal, start_there
from tests.warm import WarmProcess
from tests.worker.injected import inject
from tests.worker.long_run import (
    ENDLESS,
    LONG,
    assert_same_end,
    at_work,
    lives,
    slow_down,
    store_of,
    submitted,
    trainers,
)


def everything(cli: CommandLine, run_id: str) -> dict[str, object]:
    """Return all that is stored of a run: in the database, and in its folder but for logs."""
    folder = cli.folder / ".lsqctl" / "runs" / run_id
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".log"
    }
    with store_of(cli) as store:
        parts = (
            store.runs.detail,
            store.metrics.points,
            store.metrics.summaries,
            store.checkpoints.list,
            store.results.evaluations,
        )
        return {f"file {name}": content for name, content in files.items()} | {
            part.__qualname__: part(run_id) for part in (*parts, store.runs.events)
        }


def changes(before: dict[str, object], after: dict[str, object]) -> dict[str, object]:
    """Return what differs, before and after: all that is stored fills pages."""
    names = sorted(before.keys() | after.keys())
    both = {name: (before.get(name), after.get(name)) for name in names}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def put_to_sleep(cli: CommandLine, processes: list[psutil.Process]) -> bool:
    """Stop processes; wake them again and return False where one holds a lock of SQLite.

    Nobody else could write then, as long as it sleeps: not even where it was only reading, for
    without a WAL a commit waits for every reader.
    """
    for process in processes:
        process.suspend()
    path = cli.folder / ".lsqctl" / "lsqctl.db"
    with closing(sqlite3.connect(path, timeout=0.2, isolation_level=None)) as database:
        try:
            database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            for process in processes:
                process.resume()
            return False
        database.execute("ROLLBACK")
    return True


# the second save waits to begin while there is a file `hold`, each half way while there is `slow`
BEGIN = """
import time
from pathlib import Path

begins = []

def failpoint(name, _real=failpoint, folder=Path({folder!r})):
    _real(name)
    begins.extend([name] * (name == "checkpoint.begin"))
    while len(begins) == 2 and (folder / "hold").exists():
        (folder / "begun").touch()
        time.sleep(0.01)
"""
HALF_WAY = """
import time
from pathlib import Path

def failpoint(name, _real=failpoint, folder=Path({folder!r})):
    _real(name)
    while name == "checkpoint.before-manifest" and (folder / "slow").exists():
        (folder / "half-way").touch()
        time.sleep(0.01)
"""


def hold_saves(cli: CommandLine) -> None:
    folder = str(cli.folder)
    begin, half_way = BEGIN.format(folder=folder), HALF_WAY.format(folder=folder)
    inject(cli, training_session=begin, training_checkpoint=half_way)


def test_a_worker_and_its_trainer_that_sleep_past_their_lease_change_nothing_and_say_so(
    cli, uninterrupted
):
    """They sleep where a save begins, and the trainer is killed half way through it."""
    hold_saves(cli)
    run_id = submitted(cli, LONG)
    (cli.folder / "hold").touch()
    zombie = cli.start("worker", "--slots", "2", "--name", "sleeper")
    wait_for((cli.folder / "begun").exists)
    (trainer,) = trainers(zombie.pid)
    asleep = [psutil.Process(zombie.pid), trainer]
    wait_for(lambda: put_to_sleep(cli, asleep))
    (cli.folder / "hold").unlink()
    cli("worker", "--until-empty", "--slots", "2", "--name", "heir")
    assert_same_end(cli, run_id, uninterrupted)
    before = everything(cli, run_id)
    (cli.folder / "slow").touch()
    trainer.resume()
    wait_for((cli.folder / "half-way").exists)
    asleep[0].resume()
    wait_for(lambda: not lives(trainer))
    time.sleep(1)  # a lease: what the worker itself would still write
    zombie.send_signal(signal.SIGTERM)
    told, _ = zombie.communicate(timeout=60)
    assert "lease lost: another attempt owns the run; nothing was changed" in told
    assert changes(before, everything(cli, run_id)) == {}
    with store_of(cli) as store:
        attempts = store.runs.detail(run_id).attempts
    reasons = [(one.worker.split("-")[0], one.reason) for one in attempts]
    assert reasons == [("sleeper", EndReason.WORKER_LOST), ("heir", EndReason.COMPLETED)]


def test_a_trainer_that_sleeps_past_its_lease_is_stopped_by_its_own_fence(cli, uninterrupted):
    slow_down(cli)
    run_id = submitted(cli, LONG)
    zombie = cli.start("worker", "--slots", "2", "--name", "sleeper")
    with store_of(cli) as store:
        wait_for(lambda: at_work(store, run_id))
    (trainer,) = trainers(zombie.pid)
    asleep = [psutil.Process(zombie.pid), trainer]
    wait_for(lambda: put_to_sleep(cli, asleep))
    cli("worker", "--until-empty", "--slots", "2", "--name", "heir")
    assert_same_end(cli, run_id, uninterrupted)
    before = everything(cli, run_id)
    trainer.resume()  # its supervisor sleeps on
    wait_for(lambda: not lives(trainer))
    assert changes(before, everything(cli, run_id)) == {}


def test_a_reused_pid_is_not_taken_for_the_worker_that_had_it():
    """A pid, its start time and the boot together name a process; only then is it provably gone."""
    me = this_worker("w", 1, "cpu")
    assert not is_dead(me)
    assert is_dead(
        replace(me, process_started=me.process_started - 60)
    )  # the pid is ours, the process not
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert is_dead(replace(me, pid=gone.pid))
    for elsewhere in ({"host": "other"}, {"boot_id": "other"}):  # there the lease decides
        assert not is_dead(replace(me, process_started=0.0, pid=gone.pid, **elsewhere))
    assert boot_id() == me.boot_id
    assert this_worker("w", 1, "cpu").id != me.id


@pytest.mark.slow
def test_a_trainer_whose_supervisor_closes_the_pipe_saves_and_stops(cli):
    """As when the supervisor's process is gone but the kernel's signal did not come."""
    from lsqctl.worker.messages import AttemptSpec, ExitReport

    run_id = submitted(cli, ENDLESS)
    home = cli.folder / ".lsqctl"
    with store_of(cli) as store:
        me = this_worker("w", 1, "cpu")
        store.workers.register(me)
        lease = store.queue.claim(me.id).lease
        spec = AttemptSpec(
            run_id=run_id,
            attempt=lease.attempt,
            fence=lease.fence,
            db_url=f"sqlite:///{home / 'lsqctl.db'}",
            lease_seconds=30,
            run_dir=str(home / "runs" / run_id),
            data_dir=str(home / "data"),
            device="cpu",
            threads=1,
            supervisor_pid=os.getpid(),
        )
        report, write_end = os.pipe()
        trainer = subprocess.Popen(
            [sys.executable, "-m", "lsqctl.worker.execute", str(write_end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=(write_end,),
            env=cli.environment,
            text=True,
        )
        os.close(write_end)
        trainer.stdin.write(spec.to_line())
        trainer.stdin.flush()
        wait_for(lambda: at_work(store, run_id))
        trainer.stdin.close()
        assert trainer.wait(30) == 75
        with os.fdopen(report) as pipe:
            assert ExitReport.from_line(pipe.read()).reason is EndReason.PREEMPTED
        assert store.checkpoints.list(run_id)[0].step >= 30


# SIGTERM to the supervisor from within the trainer, at the worst moments
MOMENTS = """
import os, signal, time
from pathlib import Path


def _terminate(moment):
    marker = Path({folder!r}) / moment
    worker = Path({folder!r}) / "worker.pid"
    if worker.exists() and not marker.exists():
        marker.touch()
        os.kill(int(worker.read_text()), signal.SIGTERM)
        time.sleep(0.3)  # it arrives while we are inside
"""
IN_SAVE = """
_commit = commit_checkpoint
def commit_checkpoint(temporary, final):
    if int(final.name[5:13]) > 20:
        _terminate("save")
    _commit(temporary, final)
"""
IN_EVALUATION = """
_evaluate = evaluate_variants
def evaluate_variants(session):
    if session.train_state.epoch >= 3:
        _terminate("evaluation")
    return _evaluate(session)
"""


def test_a_sigterm_inside_a_save_or_an_evaluation_spends_no_attempt_and_changes_no_number(
    cli, uninterrupted
):
    moments = MOMENTS.format(folder=str(cli.folder))
    inject(cli, training_checkpoint=moments + IN_SAVE, training_finetuning=moments + IN_EVALUATION)
    run_id = submitted(cli, LONG)
    for _ in ("save", "evaluation"):
        worker = cli.start("worker", "--until-empty", "--slots", "2")
        (cli.folder / "worker.pid").write_text(str(worker.pid))
        assert worker.wait(60) == 128 + signal.SIGTERM
        (cli.folder / "worker.pid").unlink()
        with store_of(cli) as store:
            assert store.runs.detail(run_id).run.state is RunState.QUEUED
    assert {"save", "evaluation"} <= {path.name for path in cli.folder.iterdir()}
    cli("worker", "--until-empty", "--slots", "2")
    with store_of(cli) as store:
        reasons = [one.reason for one in store.runs.detail(run_id).attempts]
    assert reasons == [EndReason.PREEMPTED] * 2 + [EndReason.COMPLETED]
    assert_same_end(cli, run_id, uninterrupted)


def controlled(
    cli: CommandLine, terminal: Terminal, *words: str
) -> WarmProcess | subprocess.Popen[bytes]:
    """Start a command as a shell does: its terminal is the controlling one."""
    streams = (terminal.inner, terminal.inner, terminal.inner)
    process = start_there(cli, list(words), streams, controls=True)
    terminal.leave()
    cli.started.append(process)
    return process


def read_until(keys: int, text: str) -> None:
    seen = ""
    while text not in seen:
        seen += os.read(keys, 65536).decode(errors="replace")


SLOW_SAVE = """
import time
from pathlib import Path
_write = write_checkpoint
def write_checkpoint(run_dir, content, **options):
    if Path({marker!r}).exists():
        time.sleep(60)
    return _write(run_dir, content, **options)
"""


def test_ctrl_c_in_a_terminal_is_graceful_once_and_an_abort_twice(cli):
    slow = cli.folder / "slow"
    inject(cli, training_session=SLOW_SAVE.format(marker=str(slow)))
    run_id = submitted(cli, ENDLESS)
    with Terminal() as terminal, store_of(cli) as store:
        process = controlled(cli, terminal, "worker", "--slots", "2")
        wait_for(lambda: at_work(store, run_id, step=1))
        slow.touch()
        os.write(terminal.outer, b"\x03")
        read_until(terminal.outer, "SIGINT: saving 1 run for the queue; again to stop")
        time.sleep(0.5)
        assert process.poll() is None  # it waits for the save
        os.write(terminal.outer, b"\x03")
        assert process.wait(30) == 130
        assert store.runs.detail(run_id).run.state is RunState.QUEUED
        assert store.runs.detail(run_id).attempts[0].reason is EndReason.PREEMPTED


def test_closing_the_terminal_of_a_worker_saves_its_run_and_puts_it_back(cli):
    run_id = submitted(cli, ENDLESS)
    with Terminal() as terminal, store_of(cli) as store:
        process = controlled(cli, terminal, "worker", "--slots", "2")
        wait_for(lambda: at_work(store, run_id))
        terminal.close()
        assert process.wait(60) == 128 + signal.SIGHUP
        detail = store.runs.detail(run_id)
        assert detail.run.state is RunState.QUEUED
        assert [one.reason for one in detail.attempts] == [EndReason.PREEMPTED]
        assert store.checkpoints.list(run_id)[0].step >= 30


def test_code_that_changed_after_the_submit_is_shown(cli):
    run_id = submitted(cli, TINY.replace("epochs: 2", "epochs: 1"))
    assert "ran other code" not in cli("runs", "show", run_id).stdout
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(cli.folder / ".lsqctl" / "lsqctl.db")) as db, db:
        (text,) = db.execute("SELECT provenance FROM runs").fetchone()
        provenance = json.loads(text) | {"code_sha256": "0" * 64}
        db.execute("UPDATE runs SET provenance = ?", [json.dumps(provenance)])
    cli("worker", "--until-empty")
    assert "changed after submit: attempt 1 ran other code" in cli("runs", "show", run_id).stdout
    with store_of(cli) as store:
        notes = [one.detail for one in store.runs.events(run_id) if one.kind == "note"]
    assert any("has changed since the run was submitted (000000000000 →" in one for one in notes)
