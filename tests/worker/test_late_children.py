"""When a supervisor stops and when it kills a child: real processes, on a clock of our own."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lsqctl.run import EndReason, RunState
from lsqctl.settings import Settings
from lsqctl.store import Store, open_store
from lsqctl.worker.child import SAVE_GRACE_SECONDS, Child
from lsqctl.worker.identity import this_worker
from lsqctl.worker.messages import log_path
from lsqctl.worker.slots import SlotAllocator, make_slots
from lsqctl.worker.supervisor import Supervisor
from tests.conftest import tmpfs, wait_for
from tests.store.samples import Clock, new, submit
from tests.worker.test_dead_workers import Silent

LEASE = 30.0
LIMIT = 600.0

# What a child's Python executes before anything else: SIGTERM gets a line in the log, no end.
DEAF = """
import signal
signal.signal(signal.SIGTERM, lambda number, frame: print("asked", flush=True))
print("ready", flush=True)
while True:
    signal.pause()
"""


@dataclass
class Scene:
    """A supervisor, its one run, and the child that does not end when it is asked."""

    store: Store
    supervisor: Supervisor
    clock: Clock
    run_id: str
    database: Path
    log: Path

    @property
    def child(self) -> Child:
        (child,) = self.supervisor._children
        return child

    def tick_at(self, seconds: float) -> None:
        self.clock.seconds = seconds
        self.supervisor.tick()

    def wait_until_asked(self, times: int) -> None:
        wait_for(lambda: self.log.read_text().count("asked") == times)

    @contextmanager
    def locked(self) -> Iterator[None]:
        with closing(sqlite3.connect(self.database, isolation_level=None)) as db:
            db.execute("BEGIN EXCLUSIVE")
            yield


@pytest.fixture
def scene(tmp_path, monkeypatch) -> Iterator[Scene]:
    (tmp_path / "deaf").mkdir()
    (tmp_path / "deaf" / "sitecustomize.py").write_text(DEAF)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "deaf"), prepend=os.pathsep)
    home = tmp_path / "home"
    url = f"sqlite:///{home}/lsqctl.db"
    settings = Settings(home, url, tmp_path, lease_seconds=LEASE, warm=False)
    me, slots, clock = this_worker(None, 1, "cpu"), SlotAllocator(make_slots((), 1)), Clock()
    with open_store(url, lease_seconds=LEASE, busy_seconds=0.05) as store:
        store.workers.register(me)
        (run_id,) = submit(store, new("a", time_limit_seconds=LIMIT))
        supervisor = Supervisor(
            store, settings, identity=me, slots=slots, observer=Silent(), clock=clock
        )
        supervisor.tick()
        log = log_path(settings.run_dir(run_id), 1)
        try:
            wait_for(lambda: "ready" in log.read_text())
            yield Scene(store, supervisor, clock, run_id, home / "lsqctl.db", log)
        finally:
            supervisor._shutdown()
            wait_for(lambda: supervisor._finalize_ended() or not supervisor._children)


def test_a_child_is_stopped_after_a_whole_lease_without_renewal_and_not_before(scene):
    with scene.locked():
        scene.tick_at(LEASE)
        assert not scene.child.stop_requested
        scene.tick_at(LEASE + 5)
        scene.wait_until_asked(1)


def test_a_child_whose_lease_was_renewed_in_time_is_not_stopped(scene):
    scene.tick_at(LEASE - 1)
    with scene.locked():
        scene.tick_at(LEASE + 5)
        assert not scene.child.stop_requested


def test_a_child_that_was_killed_while_the_database_was_away_was_not_stopped_by_its_worker(scene):
    late = scene.child
    os.kill(late._process.pid, signal.SIGKILL)
    wait_for(lambda: late.exit_code() is not None)
    with scene.locked():
        scene.tick_at(LEASE + 5)
        scene.tick_at(LEASE + 10)
    scene.supervisor._finalize_ended()
    (attempt,) = scene.store.runs.detail(scene.run_id).attempts
    assert attempt.reason is EndReason.INFRA
    assert "killed by SIGKILL" in attempt.message


def test_a_child_that_ended_by_the_signal_that_its_worker_got_too_is_given_back(scene):
    """As where a system stops all processes at once, and the child is still at its imports."""
    late = scene.child
    os.kill(late._process.pid, signal.SIGHUP)  # which it does not handle
    wait_for(lambda: late.exit_code() == -signal.SIGHUP)
    scene.supervisor._begin_shutdown(128 + signal.SIGHUP, "SIGHUP")
    scene.supervisor._finalize_ended()
    (attempt,) = scene.store.runs.detail(scene.run_id).attempts
    assert attempt.reason is EndReason.PREEMPTED


@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED: a disk that only reads (needs root)")
def test_a_run_whose_disk_only_reads_by_now_is_not_kept_for_ever_by_what_lies_on_it(scene):
    late = scene.child
    os.kill(late._process.pid, signal.SIGKILL)
    wait_for(lambda: late.exit_code() is not None)
    with tmpfs(scene.log.parent, "1m") as run_dir:
        (run_dir / "spool-1.jsonl").write_text('["loss", "train", 1, 0.5]\n')
        subprocess.run(["mount", "-o", "remount,ro", str(run_dir)], check=True)
        scene.supervisor._finalize_ended()
        assert (run_dir / "spool-1.jsonl").exists()
    assert not scene.supervisor._children
    assert [point.value for point in scene.store.metrics.points(scene.run_id)] == [0.5]


def test_a_child_over_its_time_limit_is_asked_to_save_and_killed_when_that_takes_too_long(scene):
    scene.tick_at(LIMIT - 1)
    assert not scene.child.stop_requested
    scene.tick_at(LIMIT)
    scene.wait_until_asked(1)
    scene.tick_at(LIMIT + SAVE_GRACE_SECONDS)
    os.kill(scene.child._process.pid, signal.SIGTERM)
    scene.wait_until_asked(2)  # it lives, or it could not answer
    late = scene.child
    scene.tick_at(LIMIT + SAVE_GRACE_SECONDS + 1)
    wait_for(lambda: late.exit_code() == -signal.SIGKILL)
    scene.supervisor.tick()
    run = scene.store.runs.detail(scene.run_id).run
    assert (run.state, run.reason) == (RunState.FAILED, EndReason.TIMEOUT)
