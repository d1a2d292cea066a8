"""The queue as a worker sees it: claim a run, keep it, and say how it is going."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, or_, select, update

from lsqctl.errors import NotFound
from lsqctl.facts import Progress
from lsqctl.failpoint import failpoint
from lsqctl.run import Claim, Lease, Renewal, RunState
from lsqctl.store.base import Base
from lsqctl.store.columns import from_json, now, to_json
from lsqctl.store.database import reads, writes
from lsqctl.store.rows import load_parents, load_runs
from lsqctl.store.states import lost, own, owned, record
from lsqctl.store.tables import attempts, runs, workers

# What the first attempt decides for all later ones: exact resume needs it.
_LASTING = ("device", "threads", "compile")


def _claimable() -> list[ColumnElement[bool]]:
    return [
        runs.c.state == RunState.QUEUED,
        runs.c.held.is_(False),
        or_(runs.c.not_before.is_(None), runs.c.not_before <= now()),
    ]


class Claims(Base):
    """Claiming, renewing and reporting."""

    def claim(
        self, worker_id: str, *, device: str = "cpu", gpus: int = 1, free_gpus: int = 1
    ) -> Claim | None:
        """Take the most urgent queued run, or return None when there is none to take now.

        One UPDATE both picks and marks the row, so two workers never get the same run.
        ``device`` is recorded with the attempt. A worker with ``gpus`` GPUs passes over runs that
        reserve more; one that reserves more than its ``free_gpus`` is waited for, so that smaller
        runs behind it cannot starve it. Raises NotFound for an unregistered worker.
        """
        if not self._anything_to_claim(gpus):  # an idle worker must not queue for the write lock
            return None
        return self._claim(worker_id, device, gpus, free_gpus)

    @reads
    def _anything_to_claim(self, db: Connection, gpus: int) -> bool:
        fits = runs.c.gpus <= max(gpus, 1)
        return db.execute(select(1).where(*_claimable(), fits).limit(1)).first() is not None

    @writes
    def _claim(
        self, db: Connection, worker_id: str, device: str, gpus: int, free_gpus: int
    ) -> Claim | None:
        if db.scalar(select(1).where(workers.c.id == worker_id)) is None:
            raise NotFound(f"no worker has the id {worker_id}; register it first")
        row = db.execute(self._take(worker_id, gpus, free_gpus)).one_or_none()
        if row is None:
            return None
        lease = Lease(row.id, row.attempt, row.fence)
        db.execute(
            insert(attempts).values(
                run_id=row.id,
                number=row.attempt,
                fence=row.fence,
                worker_id=worker_id,
                started_at=now(),
                message="",
                progressed=False,
                circumstances=to_json({"device": device}),
            )
        )
        moved = {"source": RunState.QUEUED, "to": RunState.RUNNING}
        record(db, row.id, "claimed", **moved, lease=lease, detail=worker_id)
        failpoint("claim.before-commit")
        return _to_claim(db, row, lease)

    def _take(self, worker_id: str, gpus: int, free_gpus: int) -> Any:
        first = (
            select(runs.c.id)
            .where(*_claimable(), runs.c.gpus <= max(gpus, 1))
            .order_by(runs.c.urgency, runs.c.seq)
            .limit(1)
            .with_for_update(key_share=True, skip_locked=True)
            .cte("first")
            .prefix_with("MATERIALIZED")  # else PostgreSQL may run it once for each row
        )
        return (
            update(runs)
            .where(runs.c.id == select(first.c.id).scalar_subquery())
            .where(runs.c.state == RunState.QUEUED, runs.c.gpus <= max(free_gpus, 1))
            .values(
                state=RunState.RUNNING,
                attempt=runs.c.attempt + 1,
                fence=secrets.token_hex(16),
                worker_id=worker_id,
                lease_until=now(self.lease_seconds),
                renewals=0,
                not_before=None,
                started_at=now(),
                finished_at=None,
                reason=None,
                message="",
            )
            .returning(*(runs.c[k] for k in "id attempt fence recipe snapshot".split()))
            .returning(runs.c.circumstances)
        )

    @writes
    def settle(self, db: Connection, lease: Lease, circumstances: Mapping[str, Any]) -> None:
        """Store what the attempt runs under: device kind, threads, versions, environment.

        The run keeps device, threads and compile of the first attempt that says them.
        Raises LeaseLost.
        """
        own(db, lease)
        db.execute(
            update(attempts)
            .where(attempts.c.run_id == lease.run_id, attempts.c.number == lease.attempt)
            .values(circumstances=to_json(circumstances))
        )
        lasting = {key: circumstances[key] for key in _LASTING if key in circumstances}
        db.execute(
            update(runs)
            .where(runs.c.id == lease.run_id, runs.c.circumstances.is_(None))
            .values(circumstances=to_json(lasting))
        )

    @writes
    def renew(self, db: Connection, lease: Lease) -> Renewal:
        """Keep the run for another lease, from now by the database's clock.  Raises LeaseLost."""
        change = (
            update(runs)
            .where(*owned(lease))
            .values(lease_until=now(self.lease_seconds), renewals=runs.c.renewals + 1)
            .returning(runs.c.cancel_requested)
        )
        row = db.execute(change).one_or_none()
        if row is None:
            raise lost(db, lease)
        return Renewal(cancel_requested=row.cancel_requested)

    @writes
    def while_owned(self, db: Connection, lease: Lease, work: Callable[[], None]) -> None:
        """Do something outside the database while no other attempt can get the run.

        ``work`` may be done more than once. Raises LeaseLost, with nothing done.
        """
        own(db, lease)
        work()

    @writes
    def progress(self, db: Connection, lease: Lease, progress: Progress) -> None:
        """Store how far the attempt is.  Raises LeaseLost."""
        own(db, lease, **progress_values(progress))

    @writes
    def note(self, db: Connection, lease: Lease, text: str) -> None:
        """Keep a sentence with the run's history.  Raises LeaseLost."""
        own(db, lease)
        record(db, lease.run_id, "note", lease=lease, detail=text)


def progress_values(progress: Progress | None) -> dict[str, int]:
    """Return the columns of a run that a Progress sets."""
    if progress is None:
        return {}
    return {
        "step": progress.step,
        "total_steps": progress.total_steps,
        "epoch": progress.epoch,
        "epochs": progress.epochs,
    }


def _to_claim(db: Connection, row: Row[Any], lease: Lease) -> Claim:
    return Claim(
        run=load_runs(db, [row.id])[row.id],
        lease=lease,
        recipe=from_json(row.recipe),
        snapshot=from_json(row.snapshot),
        circumstances=from_json(row.circumstances),
        parents=load_parents(db, row.id),
    )
