"""An attempt that cannot be started ends as any other, also where nobody can store that at once."""

from __future__ import annotations

import gc
import os
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from lsqctl.atomic_write import write_atomic
from lsqctl.errors import UsageError
from lsqctl.run import EndReason, RunState
from lsqctl.store import Store, open_store
from lsqctl.worker.launchers import Pipes, ProcessHandle
from lsqctl.worker.supervisor import CLAIM_POLL_SECONDS, Supervisor
from tests.conftest import tmpfs
from tests.store.samples import Clock, identity, lapse, new, no_back_off, submit, take
from tests.worker.test_dead_workers import supervisor

CAUSE = "no process can be started"


class Refusing:
    """A launcher that starts nothing, and what happens while it tries."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._meanwhile = meanwhile

    def start(self) -> None: ...
    def close(self) -> None: ...
    def abandon(self, reason: str) -> None: ...

    def launch(self, pipes: Pipes, env: Mapping[str, str]) -> ProcessHandle:
        self._meanwhile()
        raise OSError(CAUSE)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path):
    with open_store(f"sqlite:///{tmp_path}/lsqctl.db", busy_seconds=0.05) as opened:
        yield opened


@pytest.fixture
def worker(store, tmp_path, clock) -> Supervisor:
    submit(store, new("a"))
    return supervisor(store, tmp_path, clock)


def open_descriptors() -> dict[str, str]:
    """Return what each open descriptor is of, but for the folder of them itself."""
    gc.collect()  # what tests before this one have left
    folder = Path("/proc/self/fd")
    return {one.name: os.readlink(one) for one in folder.iterdir() if one.is_symlink()}


def ends(store: Store) -> list[tuple[RunState, list[tuple[EndReason | None, str]]]]:
    details = [store.runs.detail(run.id) for run in store.runs.list()]
    return [(one.run.state, [(a.reason, a.message) for a in one.attempts]) for one in details]


def test_a_launch_that_fails_ends_its_attempt_and_leaves_no_pipe_open(worker, store):
    before = open_descriptors()
    worker._launcher = Refusing()
    worker.tick()
    worker.tick()
    assert ends(store) == [(RunState.QUEUED, [(EndReason.INFRA, CAUSE)])]
    assert open_descriptors().items() <= before.items()


def test_why_a_launch_failed_is_stored_once_the_database_is_back(worker, store, tmp_path):
    with closing(sqlite3.connect(tmp_path / "lsqctl.db", isolation_level=None)) as other:
        worker._launcher = Refusing(lambda: other.execute("BEGIN EXCLUSIVE"))
        worker.tick()
        worker.tick()
        other.execute("ROLLBACK")
    assert ends(store) == [(RunState.RUNNING, [(None, "")])]
    worker.tick()
    assert ends(store) == [(RunState.QUEUED, [(EndReason.INFRA, CAUSE)])]
    assert not worker._children


@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED: a full file system (needs root: mount)")
def test_what_needs_an_inode_that_is_not_free_says_so(worker, store, tmp_path):
    with tmpfs(tmp_path / "runs", "1m", inodes=1) as runs:  # which is its own
        worker.tick()
        worker.tick()
        with pytest.raises(UsageError, match=r"No space left on device \(no inode is free, though"):
            write_atomic(runs / "file", b"")
    ((_, ((reason, message),)),) = ends(store)
    assert reason is EndReason.INFRA
    assert re.fullmatch(
        r".*No space left.*/runs/\w+' \(no inode is free, though 1.05 MB .*", message
    )


def test_a_launch_that_fails_after_its_lease_was_lost_changes_nothing_and_ends_no_worker(
    worker, store, clock
):
    """As of a worker that slept between claim and launch, while another one took the run."""

    def taken_over() -> None:
        (run,) = store.runs.list()
        lapse(store, run.id)
        assert store.queue.reap(is_dead=lambda _: True)
        no_back_off(store)
        store.workers.register(identity("w1"))
        take(store)

    worker._launcher = Refusing(taken_over)
    worker.tick()
    clock.seconds += CLAIM_POLL_SECONDS
    worker.tick()
    ((state, attempts),) = ends(store)
    assert state is RunState.RUNNING
    assert [reason for reason, _ in attempts] == [EndReason.WORKER_LOST, None]
    assert not worker._children
