"""How soon a dead worker is found: the real supervisor and store, on a clock of our own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import delete

from lsqctl.errors import UsageError
from lsqctl.run import EndReason, Run, RunState, WorkerIdentity
from lsqctl.settings import Settings
from lsqctl.store import open_store
from lsqctl.store.tables import workers
from lsqctl.worker.identity import this_worker
from lsqctl.worker.messages import ExitReport
from lsqctl.worker.slots import Allocation, SlotAllocator, make_slots
from lsqctl.worker.supervisor import TICK_SECONDS, Observer, Supervisor
from tests.conftest import fewer
from tests.store.samples import Clock, identity, lapse, new, submit, take

FOUND_WITHIN = 35.0


class Silent:
    """An observer that says nothing."""

    def started(self, run: Run, allocation: Allocation, threads: int) -> None: ...
    def ended(self, run: Run, exit_report: ExitReport) -> None: ...
    def notify(self, text: str) -> None: ...
    def tick(self) -> None: ...


def supervisor(store, folder: Path, clock: Clock) -> Supervisor:
    observer: Observer = Silent()
    worker = this_worker(None, 1, "cpu")
    store.workers.register(worker)
    settings = Settings(home=folder, db_url="sqlite:///unused", data_dir=folder)
    slots = SlotAllocator(make_slots((), 1))
    return Supervisor(store, settings, identity=worker, slots=slots, observer=observer, clock=clock)


@pytest.mark.parametrize("phase", fewer([0.0, 0.05, 0.95, 2.5, 4.95], 2))
def test_a_dead_worker_is_found_within_35_seconds_with_the_default_settings(tmp_path, phase):
    """It renews ``phase`` seconds after the finder's first look, and dies at that moment."""
    clock = Clock()
    with open_store(f"sqlite:///{tmp_path}/home/lsqctl.db", clock=clock) as store:
        store.workers.register(identity("w1"))
        submit(store, new("a"))
        claim = take(store)
        finder = supervisor(store, tmp_path, clock)
        died = None
        while store.runs.detail(claim.run.id).run.state is RunState.RUNNING:
            assert clock.seconds - (died or 0) < FOUND_WITHIN
            if died is None and clock.seconds >= phase:
                store.queue.renew(claim.lease)
                died = clock.seconds
            if died is not None and clock.seconds >= died + store.lease_seconds:
                lapse(store, claim.run.id, seconds=0.001)  # the database's clock has got there too
            finder.tick()
            clock.seconds += TICK_SECONDS
        assert died is not None
        assert clock.seconds - died >= store.lease_seconds, "not before its lease is over"
        assert store.runs.detail(claim.run.id).attempts[0].reason is EndReason.WORKER_LOST


def test_a_worker_that_a_restored_database_does_not_know_registers_again(tmp_path):
    clock = Clock()
    with open_store(f"sqlite:///{tmp_path}/lsqctl.db") as store:
        worker = supervisor(store, tmp_path, clock)
        store._database.write(lambda db: db.execute(delete(workers)))
        worker.tick()
        (known,) = store.workers.list()
        assert known.identity.id == worker._identity.id
        store._database.write(lambda db: db.execute(delete(workers)))
        submit(store, new("a"))
        clock.seconds = 0.6  # no heartbeat is due, a claim is
        worker.tick()
        assert len(store.workers.list()) == 1


def test_only_a_live_worker_keeps_its_name(tmp_path):
    def gone(worker: WorkerIdentity) -> bool:
        return False

    with open_store(f"sqlite:///{tmp_path}/home/lsqctl.db") as store:
        store.workers.register(identity("w1"), is_dead=gone)
        store.workers.register(identity("w1"), is_dead=gone)  # the same worker again
        with pytest.raises(UsageError, match="choose another --name"):
            store.workers.register(identity("w2"), is_dead=gone)
        assert [one.identity.id for one in store.workers.list()] == ["w1"]
        store.workers.register(identity("w3"), is_dead=lambda worker: True)  # provably gone
        store.workers.deregister("w1")
        store.workers.deregister("w3")
        store.workers.register(identity("w2"), is_dead=gone)


def test_a_worker_that_was_not_seen_for_a_lease_has_lost_its_name(tmp_path):
    with open_store(f"sqlite:///{tmp_path}/home/lsqctl.db", lease_seconds=-1.0) as store:
        store.workers.register(identity("w1"))
        store.workers.register(identity("w2"), is_dead=lambda worker: False)


def test_a_notice_is_kept_with_its_worker_until_it_is_taken_away(tmp_path):
    with open_store(f"sqlite:///{tmp_path}/home/lsqctl.db") as store:
        me = this_worker("me", 1, "cuda")
        store.workers.register(me)
        assert me.pid == os.getpid()
        for text in ("GPU 0: busy with process 7 of ann", ""):
            store.workers.set_notice(me.id, text)
            assert [one.notice for one in store.workers.list()] == [text]
