"""The queue as a worker sees it: claim a run, keep it, and say how it is going."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

from sqlalchemy import (
    Connection,
    Double,
    bindparam,
    or_,
    select,
    update,
)

from lsqctl.errors import NotFound
from lsqctl.failpoint import failpoint
from lsqctl.run import Claim, Lease, Renewal, RunState
from lsqctl.store.attempt_completion import Reaper
from lsqctl.store.database import read_tx, write_tx
from lsqctl.store.dependencies import Remaining, remaining
from lsqctl.store.dialects import from_json, now, to_json
from lsqctl.store.enqueue import Enqueues
from lsqctl.store.queue_overview import QueueOverviews
from lsqctl.store.recordings import Recordings
from lsqctl.store.rows import load_runs
from lsqctl.store.tables import AnyRow, attempts, runs, workers
from lsqctl.store.transitions import (
    LEASE_HELD,
    begin_attempt,
    lease_lost_error,
    lease_values,
    record_event,
    require_lease,
)

# What the first attempt decides for all later ones: exact resume needs it.
_PINNED_KEYS = ("device", "threads", "compile", "kernel")


_CLAIMABLE = [
    runs.c.state == RunState.QUEUED,
    runs.c.held.is_(False),
    runs.c.removed_at.is_(None),
    or_(runs.c.not_before.is_(None), runs.c.not_before <= now()),
    runs.c.gpus <= bindparam("most_gpus"),
    runs.c.gpus >= bindparam("least_gpus"),
]
_ANY_CLAIMABLE = select(1).where(*_CLAIMABLE).limit(1)
_WORKER_EXISTS = select(1).where(workers.c.id == bindparam("worker"))
_NEXT_RUN = (
    select(runs.c.id)
    .where(*_CLAIMABLE)
    .order_by(runs.c.priority.desc(), runs.c.seq)
    .limit(1)
    .with_for_update(key_share=True, skip_locked=True)
    .cte("first")
    .prefix_with("MATERIALIZED")  # else PostgreSQL may run it once for each row
)
# Built once: building it anew takes longer than executing it, and would be done under the lock.
_CLAIM = (
    update(runs)
    .where(runs.c.id == select(_NEXT_RUN.c.id).scalar_subquery())
    .where(runs.c.state == RunState.QUEUED, runs.c.gpus <= bindparam("free_gpus"))
    .values(
        state=RunState.RUNNING,
        attempt=runs.c.attempt + 1,
        fence=bindparam("new_fence"),
        worker_id=bindparam("worker"),
        lease_until=now(bindparam("lease_seconds", type_=Double)),
        renewals=0,
        not_before=None,
        started_at=now(),
        finished_at=None,
        reason=None,
        message="",
    )
    .returning(*(runs.c[k] for k in "id attempt fence provenance pinned_environment".split()))
)
_RENEW = (
    update(runs)
    .where(*LEASE_HELD)
    .values(lease_until=now(bindparam("lease_seconds", type_=Double)), renewals=runs.c.renewals + 1)
    .returning(runs.c.cancel_requested)
)


class Queue(Enqueues, Recordings, Reaper, QueueOverviews):
    """Runs on their way: enqueued, claimed, kept by a lease, ended; and how all of them stand."""

    _last_claim_succeeded = True  # a busy worker need not peek before it claims

    def claim(
        self,
        worker_id: str,
        *,
        device: str = "cpu",
        gpus: int = 1,
        free_gpus: int = 1,
        only_gpus: int | None = None,
    ) -> Claim | None:
        """Take the most urgent queued run, or return None when there is none to take now.

        One UPDATE both picks and marks the row, so two workers never get the same run.
        ``device`` is recorded with the attempt. A worker with ``gpus`` GPUs passes over runs that
        reserve more; one that reserves more than its ``free_gpus`` is waited for, so that smaller
        runs behind it cannot starve it. With ``only_gpus`` it takes only runs that reserve as
        many. Raises NotFound for an unregistered worker.
        """
        sizes = {"most_gpus": max(gpus, 1), "least_gpus": 1}
        if only_gpus is not None:
            sizes = {"most_gpus": min(only_gpus, max(gpus, 1)), "least_gpus": only_gpus}
        idle = not self._last_claim_succeeded  # an idle worker must not queue for the write lock
        if idle and not self._anything_to_claim(sizes):
            return None
        claim = self._claim(worker_id, device, {**sizes, "free_gpus": max(free_gpus, 1)})
        self._last_claim_succeeded = claim is not None
        return claim

    @read_tx
    def _anything_to_claim(self, db: Connection, sizes: Mapping[str, int]) -> bool:
        return db.execute(_ANY_CLAIMABLE, sizes).first() is not None

    @write_tx
    def _claim(
        self, db: Connection, worker_id: str, device: str, sizes: Mapping[str, int]
    ) -> Claim | None:
        if db.scalar(_WORKER_EXISTS, {"worker": worker_id}) is None:
            raise NotFound(f"no worker has the id {worker_id}; register it first")
        claim_values = {
            "worker": worker_id,
            "new_fence": secrets.token_hex(16),
            "lease_seconds": self.lease_seconds,
            **sizes,
        }
        row = db.execute(_CLAIM, claim_values).one_or_none()
        if row is None:
            return None
        lease = Lease(row.id, row.attempt, row.fence)
        begin_attempt(db, lease, worker_id, "claimed", {"device": device})
        failpoint("claim.before-commit")
        return _to_claim(db, row, lease)

    @write_tx
    def record_environment(
        self, db: Connection, lease: Lease, environment: Mapping[str, object]
    ) -> None:
        """Store what the attempt runs under: device kind, threads, versions, environment.

        It is added to what was stored before. The run keeps device, threads and compile of the
        first attempt that says them. Raises LeaseLost.
        """
        require_lease(db, lease)
        attempt = (attempts.c.run_id == lease.run_id, attempts.c.number == lease.attempt)
        stored = db.scalar(select(attempts.c.environment).where(*attempt))
        merged = {**(from_json(stored)), **environment}
        db.execute(update(attempts).where(*attempt).values(environment=to_json(merged)))
        stored_pins = db.scalar(select(runs.c.pinned_environment).where(runs.c.id == lease.run_id))
        new_pins = {key: environment[key] for key in _PINNED_KEYS if key in environment}
        pins = {**new_pins, **(from_json(stored_pins))}
        db.execute(
            update(runs).where(runs.c.id == lease.run_id).values(pinned_environment=to_json(pins))
        )

    @write_tx
    def renew(self, db: Connection, lease: Lease) -> Renewal:
        """Keep the run for another lease, from now by the database's clock.  Raises LeaseLost."""
        values = {"lease_seconds": self.lease_seconds, **lease_values(lease)}
        row = db.execute(_RENEW, values).one_or_none()
        if row is None:
            raise lease_lost_error(db, lease)
        return Renewal(cancel_requested=row.cancel_requested)

    @write_tx
    def run_with_lease(self, db: Connection, lease: Lease, work: Callable[[], None]) -> None:
        """Do something outside the database while no other attempt can get the run.

        ``work`` may be done more than once. Raises LeaseLost, with nothing done.
        """
        require_lease(db, lease)
        work()

    @read_tx
    def remaining(self, db: Connection) -> Remaining:
        """Return how many runs are unfinished, and which of them cannot start by themselves."""
        return remaining(db)

    @write_tx
    def log_event(self, db: Connection, lease: Lease, text: str) -> None:
        """Keep a sentence with the run's history.  Raises LeaseLost."""
        require_lease(db, lease)
        record_event(db, lease.run_id, "note", lease=lease, detail=text)


def _to_claim(db: Connection, row: AnyRow, lease: Lease) -> Claim:
    return Claim(
        run=load_runs(db, [row.id])[row.id],
        lease=lease,
        provenance=from_json(row.provenance),
        pinned_environment=from_json(row.pinned_environment),
    )
