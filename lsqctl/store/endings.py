"""How an attempt ends: finished, failed, given back, or found dead; and what becomes of its run."""

from __future__ import annotations

from sqlalchemy import Connection, select

from lsqctl.errors import UsageError
from lsqctl.facts import Result
from lsqctl.failpoint import failpoint
from lsqctl.run import MAX_FAILURES, RETRIED, EndReason, Lease, RunState
from lsqctl.store.base import Base
from lsqctl.store.columns import now
from lsqctl.store.database import reshapes
from lsqctl.store.family import fail_children, queue_children
from lsqctl.store.limits import stop_sweeps
from lsqctl.store.results import insert_result
from lsqctl.store.states import UNOWNED, end_attempt, locked, move, own
from lsqctl.store.tables import attempts

_VERB = {RunState.FAILED: "failed", RunState.CANCELLED: "was cancelled"}


class Endings(Base):
    """Finishing, failing and giving back, each under the attempt's fence."""

    @reshapes
    def finish(self, db: Connection, lease: Lease, result: Result) -> None:
        """Store the result, mark the run as succeeded and queue what waited for it.

        Raises LeaseLost.
        """
        move(
            *(db, lease.run_id, RunState.RUNNING, RunState.SUCCEEDED, "succeeded"),
            lease=lease,
            reason=EndReason.COMPLETED,
            finished_at=now(),
            lease_until=None,
            failures=0,
        )
        end_attempt(db, lease, EndReason.COMPLETED, "")
        failpoint("finish.before-result")
        insert_result(db, lease.run_id, result)
        queue_children(db, lease.run_id)
        failpoint("finish.before-commit")

    @reshapes
    def fail(self, db: Connection, lease: Lease, reason: EndReason, message: str) -> RunState:
        """End the attempt and return where its run stands now.

        Lost and infra are tried again after a back-off, until MAX_FAILURES attempts in a row moved
        no checkpoint forward. Raises LeaseLost.
        """
        if reason is EndReason.COMPLETED:
            raise UsageError("a completed attempt is finished with its result, not failed")
        return self._end(db, lease, reason, message)

    @reshapes
    def release(self, db: Connection, lease: Lease) -> None:
        """Put the run back at once, with no attempt spent: the worker was asked to stop.

        Raises LeaseLost.
        """
        self._end(db, lease, EndReason.PREEMPTED, "")

    def _end(self, db: Connection, lease: Lease, reason: EndReason, message: str) -> RunState:
        own(db, lease)
        row = locked(db, lease.run_id)
        end_attempt(db, lease, reason, message)
        failures = self._failures(db, lease, reason, row.failures)
        again = reason is EndReason.PREEMPTED or (reason in RETRIED and failures < MAX_FAILURES)
        if reason is EndReason.CANCELLED or (again and row.cancel_requested):
            why = row.message or message  # a sweep that stops leaves its own words with the run
            return _close(db, lease, RunState.CANCELLED, EndReason.CANCELLED, why)
        if not again:
            return _close(db, lease, RunState.FAILED, reason, message)
        wait = 0.0 if reason is EndReason.PREEMPTED else self._back_off(failures)
        move(
            *(db, lease.run_id, RunState.RUNNING, RunState.QUEUED, "requeued"),
            detail=f"{reason}: {message}" if message else reason,
            lease=lease,
            **UNOWNED,
            failures=failures,
            not_before=now(wait) if wait else None,
            reason=reason,
            message=message,
        )
        failpoint("end.before-commit")
        return RunState.QUEUED

    def _failures(self, db: Connection, lease: Lease, reason: EndReason, before: int) -> int:
        progressed = db.scalar(
            select(attempts.c.progressed).where(
                attempts.c.run_id == lease.run_id, attempts.c.number == lease.attempt
            )
        )
        if progressed:
            return 0
        return before if reason is EndReason.PREEMPTED else before + 1

    def _back_off(self, failures: int) -> float:
        """Return the seconds to wait: a third of a lease, doubled with each failure in a row."""
        return self.lease_seconds / 3 * 2.0 ** max(failures - 1, 0)


def _close(db: Connection, lease: Lease, to: RunState, reason: EndReason, message: str) -> RunState:
    move(
        *(db, lease.run_id, RunState.RUNNING, to, to.value),
        detail=f"{reason}: {message}" if message else reason,
        lease=lease,
        reason=reason,
        message=message,
        finished_at=now(),
        lease_until=None,
        cancel_requested=False,
    )
    fail_children(db, lease.run_id, locked(db, lease.run_id).name, _VERB[to])
    if to is RunState.FAILED:
        stop_sweeps(db, lease.run_id)
    return to
