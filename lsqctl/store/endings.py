"""How an attempt ends: finished, failed, given back, or found dead; and what becomes of its run."""

from __future__ import annotations

from sqlalchemy import Connection, select

from lsqctl.errors import UsageError
from lsqctl.facts import Result
from lsqctl.failpoint import failpoint
from lsqctl.run import MAX_CONSECUTIVE_FAILURES, RETRYABLE_REASONS, EndReason, Lease, RunState
from lsqctl.store.base import StorePart
from lsqctl.store.columns import now
from lsqctl.store.database import exclusive_tx
from lsqctl.store.family import fail_children, queue_children
from lsqctl.store.limits import stop_failing_sweeps
from lsqctl.store.results import insert_result
from lsqctl.store.states import NO_LEASE, end_attempt, select_for_update, transition, require_lease
from lsqctl.store.tables import attempts

_VERB = {RunState.FAILED: "failed", RunState.CANCELLED: "was cancelled"}


class AttemptCompletion(StorePart):
    """Finishing, failing and giving back, each under the attempt's fence."""

    @exclusive_tx
    def finish(self, db: Connection, lease: Lease, result: Result) -> None:
        """Store the result, mark the run as succeeded and queue what waited for it.

        Raises LeaseLost.
        """
        transition(
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

    @exclusive_tx
    def fail(self, db: Connection, lease: Lease, reason: EndReason, message: str) -> RunState:
        """End the attempt and return where its run stands now.

        Lost and infra are tried again with back-off, until MAX_CONSECUTIVE_FAILURES attempts moved
        no checkpoint forward. Raises LeaseLost.
        """
        if reason is EndReason.COMPLETED:
            raise UsageError("a completed attempt is finished with its result, not failed")
        return self._end_attempt(db, lease, reason, message)

    @exclusive_tx
    def release(self, db: Connection, lease: Lease) -> None:
        """Put the run back at once, with no attempt spent: the worker was asked to stop.

        Raises LeaseLost.
        """
        self._end_attempt(db, lease, EndReason.PREEMPTED, "")

    def _end_attempt(self, db: Connection, lease: Lease, reason: EndReason, message: str) -> RunState:
        require_lease(db, lease)
        row = select_for_update(db, lease.run_id)
        end_attempt(db, lease, reason, message)
        failures = self._count_failures(db, lease, reason, row.failures)
        requeues = reason is EndReason.PREEMPTED or (reason in RETRYABLE_REASONS and failures < MAX_CONSECUTIVE_FAILURES)
        if reason is EndReason.CANCELLED or (requeues and row.cancel_requested):
            cancel_message = row.message or message  # a sweep that stops leaves its own words with the run
            return _end_run(db, lease, RunState.CANCELLED, EndReason.CANCELLED, cancel_message)
        if not requeues:
            return _end_run(db, lease, RunState.FAILED, reason, message)
        delay = 0.0 if reason is EndReason.PREEMPTED else self._backoff_delay(failures)
        transition(
            *(db, lease.run_id, RunState.RUNNING, RunState.QUEUED, "requeued"),
            detail=f"{reason}: {message}" if message else reason,
            lease=lease,
            **NO_LEASE,
            failures=failures,
            not_before=now(delay) if delay else None,
            reason=reason,
            message=message,
        )
        failpoint("end.before-commit")
        return RunState.QUEUED

    def _count_failures(self, db: Connection, lease: Lease, reason: EndReason, previous: int) -> int:
        progressed = db.scalar(
            select(attempts.c.progressed).where(
                attempts.c.run_id == lease.run_id, attempts.c.number == lease.attempt
            )
        )
        if progressed:
            return 0
        return previous if reason is EndReason.PREEMPTED else previous + 1

    def _backoff_delay(self, failures: int) -> float:
        """Return the seconds to wait: a third of a lease, doubled with each failure in a row."""
        return self.lease_seconds / 3 * 2.0 ** max(failures - 1, 0)


def _end_run(db: Connection, lease: Lease, to: RunState, reason: EndReason, message: str) -> RunState:
    transition(
        *(db, lease.run_id, RunState.RUNNING, to, to.value),
        detail=f"{reason}: {message}" if message else reason,
        lease=lease,
        reason=reason,
        message=message,
        finished_at=now(),
        lease_until=None,
        cancel_requested=False,
    )
    fail_children(db, lease.run_id, select_for_update(db, lease.run_id).name, _VERB[to])
    if to is RunState.FAILED:
        stop_failing_sweeps(db, lease.run_id)
    return to
