"""How an attempt ends: finished, failed, released or reaped; what becomes of its run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, case, select

from lsqctl.errors import LeaseLost, StoreError, UsageError
from lsqctl.events import Result
from lsqctl.failpoint import failpoint
from lsqctl.run import (
    MAX_CONSECUTIVE_FAILURES,
    RECORDED,
    RETRYABLE_REASONS,
    EndReason,
    Lease,
    Run,
    RunState,
    WorkerIdentity,
)
from lsqctl.store.database import StorePart, exclusive_tx, read_tx
from lsqctl.store.dependencies import end_children, queue_children, stop_failing_sweeps
from lsqctl.store.dialects import now
from lsqctl.store.halving import decide_rungs
from lsqctl.store.results import insert_result
from lsqctl.store.rows import load_runs, to_lease
from lsqctl.store.tables import AnyRow, attempts, runs, workers
from lsqctl.store.transitions import (
    NO_LEASE,
    end_attempt,
    require_lease,
    select_for_update,
    transition,
)
from lsqctl.store.workers import to_identity


class AttemptCompletion(StorePart):
    """Finishing, failing and giving back, each under the attempt's fence."""

    @exclusive_tx
    def finish(self, db: Connection, lease: Lease, result: Result) -> None:
        """Store the result, mark the run as succeeded and queue what waited for it.

        Raises LeaseLost.
        """
        transition(
            db,
            lease.run_id,
            RunState.RUNNING,
            RunState.SUCCEEDED,
            "succeeded",
            lease=lease,
            reason=EndReason.COMPLETED,
            finished_at=now(),
            lease_until=None,
            consecutive_failures=0,
        )
        end_attempt(db, lease, EndReason.COMPLETED, "")
        failpoint("finish.before-result")
        insert_result(db, lease.run_id, result)
        queue_children(db, lease.run_id)
        decide_rungs(db)
        failpoint("finish.before-commit")

    @exclusive_tx
    def fail(self, db: Connection, lease: Lease, reason: EndReason, message: str) -> RunState:
        """End the attempt and return where its run stands now.

        RETRYABLE_REASONS are tried again with back-off, until MAX_CONSECUTIVE_FAILURES attempts
        moved no checkpoint forward. Raises LeaseLost.
        """
        if reason is EndReason.COMPLETED:
            raise UsageError("a completed attempt is finished with its result, not failed")
        return self._end_attempt(db, lease, reason, message)

    @exclusive_tx
    def release(self, db: Connection, lease: Lease) -> None:
        """Requeue the run at once, with no attempt spent: the worker was asked to stop.

        Raises LeaseLost.
        """
        self._end_attempt(db, lease, EndReason.PREEMPTED, "")

    def _end_attempt(
        self, db: Connection, lease: Lease, reason: EndReason, message: str
    ) -> RunState:
        require_lease(db, lease)
        row = select_for_update(db, lease.run_id)
        end_attempt(db, lease, reason, message)
        failures = self._count_failures(db, lease, reason, row.consecutive_failures)
        requeues = row.origin != RECORDED and (
            reason is EndReason.PREEMPTED
            or (reason in RETRYABLE_REASONS and failures < MAX_CONSECUTIVE_FAILURES)
        )
        if reason is EndReason.CANCELLED or (requeues and row.cancel_requested):
            # a sweep that stops leaves its own words with the run
            cancel_message = row.message or message
            return _end_run(db, lease, RunState.CANCELLED, EndReason.CANCELLED, cancel_message)
        if not requeues:
            return _end_run(db, lease, RunState.FAILED, reason, message)
        self._requeue(db, lease, reason, message, failures)
        failpoint("end.before-commit")
        return RunState.QUEUED

    def _requeue(
        self, db: Connection, lease: Lease, reason: EndReason, message: str, failures: int
    ) -> None:
        """Send the run back to the queue, after a failure not to be claimed before a while."""
        delay = 0.0 if reason is EndReason.PREEMPTED else self._backoff_delay(failures)
        transition(
            db,
            lease.run_id,
            RunState.RUNNING,
            RunState.QUEUED,
            "requeued",
            detail=f"{reason}: {message}" if message else reason,
            lease=lease,
            **NO_LEASE,
            consecutive_failures=failures,
            not_before=now(delay) if delay else None,
            reason=reason,
            message=message,
        )

    def _count_failures(
        self, db: Connection, lease: Lease, reason: EndReason, previous: int
    ) -> int:
        moved_checkpoint = db.scalar(
            select(attempts.c.moved_checkpoint).where(
                attempts.c.run_id == lease.run_id, attempts.c.number == lease.attempt
            )
        )
        if moved_checkpoint:
            return 0
        return previous if reason is EndReason.PREEMPTED else previous + 1

    def _backoff_delay(self, failures: int) -> float:
        """Return the seconds to wait: a third of a lease, doubled with each failure in a row."""
        return self.lease_seconds / 3 * 2.0 ** max(failures - 1, 0)


def _end_run(
    db: Connection, lease: Lease, to: RunState, reason: EndReason, message: str
) -> RunState:
    transition(
        db,
        lease.run_id,
        RunState.RUNNING,
        to,
        to.value,
        detail=f"{reason}: {message}" if message else reason,
        lease=lease,
        reason=reason,
        message=message,
        finished_at=now(),
        lease_until=None,
        cancel_requested=False,
    )
    end_children(db, lease.run_id, select_for_update(db, lease.run_id).name, to)
    if to is RunState.FAILED:
        stop_failing_sweeps(db, lease.run_id)
    decide_rungs(db)
    return to


_LeaseMark = tuple[str, int]  # fence and renewal counter


@dataclass
class Reaper(AttemptCompletion):
    """Reaping. ``running_when_reaped``: how many runs were at work at the last reap.

    ``_unchanged_since``: since when, by this clock, a lease was not renewed.
    """

    def __post_init__(self) -> None:
        self.running_when_reaped = 0
        self._unchanged_since: dict[str, tuple[_LeaseMark, float]] = {}

    def reap(self, *, is_dead: Callable[[WorkerIdentity], bool] | None = None) -> list[Run]:
        """End the attempts of dead workers as worker_lost, and return their runs as they are now.

        A lease must be over by the database's clock, and this process must have seen its renewal
        counter unchanged for a whole lease by its own monotonic clock: a clock that jumps reaps
        nobody. ``is_dead`` may tell that a worker is provably dead (same host; pid, start time and
        boot id compared), which spares the second wait. A dead attempt is found within a lease and
        two calls after its last renewal.
        """
        marks, any_expired = self._running()
        self.running_when_reaped = len(marks)
        since = self._clock()
        unchanged = {
            run_id: seen
            for run_id, seen in self._unchanged_since.items()
            if marks.get(run_id) == seen[0]
        }
        self._unchanged_since = {i: (mark, since) for i, mark in marks.items()} | unchanged
        if not any_expired:
            return []
        dead = [
            row
            for row in self._expired()
            if self._unchanged_seconds(row) >= self.lease_seconds
            or (is_dead is not None and is_dead(to_identity(row)))
        ]
        return self._expire_all(dead)

    def _expire_all(self, dead: Sequence[AnyRow]) -> list[Run]:
        """End attempts one by one; where the database goes away, the rest is found again."""
        ended: list[Run] = []
        for row in dead:
            try:
                run = self._expire(row)
            except StoreError:
                if not ended:  # else nobody would hear of those that have
                    raise
                break
            ended += [run] if run is not None else []
        return ended

    def _unchanged_seconds(self, row: AnyRow) -> float:
        mark, since = self._unchanged_since.get(row.id, (None, 0.0))
        return self._clock() - since if mark == (row.fence, row.renewals) else 0.0

    @read_tx
    def _running(self, db: Connection) -> tuple[dict[str, _LeaseMark], bool]:
        """Return the marks of all leases, and whether one is over: among many, all that is read."""
        expired = case((runs.c.lease_until < now(), 1), else_=0)
        rows = db.execute(
            select(runs.c.id, runs.c.fence, runs.c.renewals, expired).where(
                runs.c.state == RunState.RUNNING, runs.c.worker_id.is_not(None)
            )
        ).all()
        return {row[0]: (row[1], row[2]) for row in rows}, any(row[3] for row in rows)

    @read_tx
    def _expired(self, db: Connection) -> list[AnyRow]:
        worker = [c.label(f"worker_{c.name}") for c in workers.c]
        return list(
            db.execute(
                select(runs.c.id, runs.c.attempt, runs.c.fence, runs.c.renewals, *worker)
                .join(workers, workers.c.id == runs.c.worker_id)
                .where(runs.c.state == RunState.RUNNING, runs.c.lease_until < now())
            )
        )

    @exclusive_tx
    def _expire(self, db: Connection, row: AnyRow) -> Run | None:
        still = select(runs.c.id).where(
            runs.c.id == row.id,
            runs.c.fence == row.fence,
            runs.c.renewals == row.renewals,
            runs.c.lease_until < now(),
        )
        if db.scalar(still.with_for_update(key_share=True)) is None:
            return None  # it was heard of in the meantime
        failpoint("reap.before-expire")
        message = f"worker {row.worker_name} was not heard of for {self.lease_seconds:g} s"
        try:
            self._end_attempt(db, to_lease(row), EndReason.WORKER_LOST, message)
        except LeaseLost:
            return None
        return load_runs(db, [row.id])[row.id]
