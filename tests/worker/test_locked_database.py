"""Whoever holds SQLite's lock for long is named, and ends no worker that starts meanwhile."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from lsqctl.errors import LockedDatabase
from lsqctl.settings import Settings
from lsqctl.store import Store
from lsqctl.store.engine import wal_is_safe
from lsqctl.store.file_checks import LOCKS, lock_holders
from lsqctl.worker.slots import SlotAllocator, make_slots
from lsqctl.worker.supervisor import Supervisor, WorkerOptions
from tests.conftest import wait_for
from tests.store.samples import identity
from tests.worker.test_dead_workers import Silent
from tests.worker.test_faults_of_the_database import Held

# without a WAL a commit waits for readers; with one nobody waits for them
HOLDS = ["BEGIN EXCLUSIVE", *([] if wal_is_safe(sqlite3.sqlite_version_info) else ["BEGIN"])]


@pytest.mark.skipif(not LOCKS.exists(), reason="NOT TESTED: who holds a lock (needs /proc/locks)")
@pytest.mark.parametrize("begin", HOLDS)
def test_who_keeps_a_database_locked_is_named_and_what_lets_a_stopped_one_go_on(
    empty_store, path, begin
):
    held = Held(path, begin)
    pid = held.process.pid
    with pytest.raises(LockedDatabase, match=f"is locked; held by process {pid}; try again"):
        empty_store.workers.heartbeat("w1")
    held.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    with pytest.raises(LockedDatabase, match=f"{pid} holds it and is stopped: `kill -CONT {pid}`"):
        empty_store.workers.heartbeat("w1")
    held.release()
    empty_store.workers.heartbeat("w1")


@pytest.mark.skipif(not LOCKS.exists(), reason="NOT TESTED: who holds a lock (needs /proc/locks)")
def test_of_a_wal_the_writer_alone_is_named(tmp_path):
    path = tmp_path / "wal.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE runs (id)")
        database.commit()
        reader, writer = Held(path, "BEGIN"), Held(path, "BEGIN IMMEDIATE")
        assert lock_holders(path) == f"held by process {writer.process.pid}; try again"
        reader.release()
        writer.release()
        assert lock_holders(path) == ""


class Told(Silent):
    """An observer that answers the first word it is told."""

    def __init__(self, answer: Callable[[], object]) -> None:
        self._answer, self.words = answer, []

    def notify(self, text: str) -> None:
        self.words.append(text)
        if len(self.words) == 1:
            self._answer()


def starting(store: Store, path: Path, observer: Told) -> Supervisor:
    """Return a supervisor that would end at once, for its queue is empty."""
    settings = Settings(path.parent, store.url, path.parent, lease_seconds=2, warm=False)
    return Supervisor(
        store,
        settings,
        identity=replace(identity("w2"), name="w2"),
        slots=SlotAllocator(make_slots((), 1)),
        observer=observer,
        options=WorkerOptions(until_empty=True),
    )


def known_workers(store: Store) -> list[str]:
    return sorted(one.identity.id for one in store.workers.list())


def test_a_worker_that_starts_while_the_database_is_locked_waits_and_says_who_holds_it(
    empty_store, path
):
    held = Held(path, HOLDS[-1])
    told = Told(held.release)
    assert starting(empty_store, path, told).run() == 0
    assert told.words[0].startswith("waiting for it: database sqlite:///")
    assert known_workers(empty_store) == ["w1", "w2"]


def test_one_signal_ends_a_worker_that_waits_for_a_locked_database(empty_store, path):
    held = Held(path)
    told = Told(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert starting(empty_store, path, told).run() == 128 + signal.SIGTERM
    held.release()
    assert known_workers(empty_store) == ["w1"]


@pytest.mark.slow
@pytest.mark.parametrize("begin", HOLDS)
def test_a_stopped_process_that_holds_the_database_ends_no_worker_that_starts(cli, begin):
    cli("worker", "--until-empty")
    held = Held(cli.folder / ".lsqctl" / "lsqctl.db", begin)
    held.process.send_signal(signal.SIGSTOP)
    worker = cli.start("worker", "--until-empty")
    time.sleep(40)  # more than all tries of opening and of registering
    assert worker.poll() is None
    held.release()
    told, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, told
    assert f"`kill -CONT {held.process.pid}` lets it go on" in told
