"""Laws of the queue's estimate: made from what ran, and from who is there to run the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from lsqctl.services.watch import read_queue_status
from lsqctl.store import open_store
from lsqctl.store.dialects import now
from lsqctl.store.tables import runs, workers
from tests.store.samples import identity, new, result, submit, take


def test_slots_of_lost_workers_are_not_in_the_estimate(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/home/lsqctl.db") as store:
        store.workers.register(identity("w1"))
        store.workers.register(replace(identity("w2"), slots=3))
        submit(store, new("a"))
        store.queue.finish(take(store).lease, result())
        minute_ago = update(runs).values(started_at=now(-60.0), finished_at=now())
        store._database.write(lambda db: db.execute(minute_ago))
        submit(store, *(new("a", seed=seed) for seed in range(1, 5)))
        assert read_queue_status(store).estimate.seconds == pytest.approx(60.0, abs=1.0)
        silent = update(workers).where(workers.c.id == "w2").values(last_heartbeat_at=now(-3600.0))
        store._database.write(lambda db: db.execute(silent))
        assert read_queue_status(store).estimate.seconds == pytest.approx(240.0, abs=1.0)
