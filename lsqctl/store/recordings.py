"""Runs that a loop of somebody's own trains: they begin as running, and are never tried again."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

from sqlalchemy import Connection, select, update

from lsqctl.errors import UsageError
from lsqctl.run import EndReason, IfExists, Lease, NewRun, RunState, WorkerIdentity
from lsqctl.store.attempt_completion import AttemptCompletion
from lsqctl.store.database import exclusive_tx
from lsqctl.store.dependencies import RETRYABLE
from lsqctl.store.dialects import now
from lsqctl.store.enqueue import Submission, canonical_run
from lsqctl.store.rows import to_lease
from lsqctl.store.tables import AnyRow, runs, workers
from lsqctl.store.transitions import begin_attempt
from lsqctl.store.workers import to_identity

_OWNER = (
    select(runs.c.id, runs.c.attempt, runs.c.fence)
    .add_columns(*(column.label(f"worker_{column.name}") for column in workers.c))
    .join(workers, workers.c.id == runs.c.worker_id)
)


class Recordings(AttemptCompletion):
    """Beginning a run that its own loop trains."""

    @exclusive_tx
    def begin_recording(
        self,
        db: Connection,
        new: NewRun,
        worker_id: str,
        environment: Mapping[str, object],
        *,
        if_exists: IfExists = "error",
        is_dead: Callable[[WorkerIdentity], bool] = lambda worker: False,
    ) -> Lease:
        """Add a run that runs already, and return its loop's lease; no worker ever sees it queued.

        A run of the same ``run_sha256`` whose loop ``is_dead`` is ended first. Raises UsageError,
        with nothing changed, where one runs or has succeeded, unless ``if_exists`` is ``rerun``.
        """
        existing = canonical_run(db, new.run_sha256)
        if existing is not None and existing.state == RunState.RUNNING:
            self._end_if_dead(db, existing.id, is_dead)
            existing = canonical_run(db, new.run_sha256)
        if existing is not None and existing.state not in RETRYABLE and if_exists != "rerun":
            raise _recorded_already(new, existing)
        run_id, _ = Submission(db, "rerun", set()).add(new)
        lease = Lease(run_id, 1, secrets.token_hex(16))
        owned = {"attempt": lease.attempt, "fence": lease.fence, "worker_id": worker_id}
        owned |= {"lease_until": now(self.lease_seconds), "started_at": now()}
        started = update(runs).where(runs.c.id == run_id)
        db.execute(started.values(state=RunState.RUNNING, **owned))
        begin_attempt(db, lease, worker_id, "recording", environment)
        return lease

    def _end_if_dead(
        self, db: Connection, run_id: str, is_dead: Callable[[WorkerIdentity], bool]
    ) -> None:
        row = db.execute(_OWNER.where(runs.c.id == run_id)).one()
        if is_dead(to_identity(row)):
            message = f"process {row.worker_pid} on {row.worker_host}, its loop, is no more"
            self._end_attempt(db, to_lease(row), EndReason.WORKER_LOST, message)


def _recorded_already(new: NewRun, existing: AnyRow) -> UsageError:
    advice = (
        "finish that one, or end it by its fail()"
        if existing.state == RunState.RUNNING
        else 'record(…, if_exists="rerun") adds another'
    )
    return UsageError(
        f"`{new.name}` seed {new.seed} is recorded already as run {existing.id} "
        f"({existing.state}); choose another name or seed, or {advice}"
    )
