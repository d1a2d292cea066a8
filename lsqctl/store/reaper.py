"""Find dead attempts: their lease is over, and nothing was heard for a whole lease."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, case, select

from lsqctl.errors import LeaseLost
from lsqctl.failpoint import failpoint
from lsqctl.run import EndReason, Run, RunState, WorkerIdentity
from lsqctl.store.columns import now
from lsqctl.store.database import read_tx, exclusive_tx
from lsqctl.store.endings import AttemptCompletion
from lsqctl.store.rows import to_lease, load_runs
from lsqctl.store.tables import runs, workers
from lsqctl.store.workers import to_identity

_LeaseMark = tuple[str, int]  # fence and renewal counter


@dataclass
class Reaper(AttemptCompletion):
    """Reaping. ``_unchanged_since``: since when (this process's clock) a lease has not been renewed."""

    def __post_init__(self) -> None:
        self._unchanged_since: dict[str, tuple[_LeaseMark, float]] = {}

    def reap(self, *, is_dead: Callable[[WorkerIdentity], bool] | None = None) -> list[Run]:
        """End the attempts of dead workers as lost, and return their runs as they are now.

        A lease must be over by the database's clock, and this process must have seen its renewal
        counter unchanged for a whole lease by its own monotonic clock: a clock that jumps reaps
        nobody. ``is_dead`` may tell that a worker is provably dead (same host; pid, start time and
        boot id compared), which spares the second wait. A dead attempt is found within a lease and
        two calls after its last renewal.
        """
        running = self._running()
        before, self._unchanged_since = self._unchanged_since, {}
        dead = []
        for row in running:
            unchanged_seconds = self._seconds_unchanged(row, before.get(row.id))
            if not row.lapsed:
                continue
            if unchanged_seconds >= self.lease_seconds or (is_dead is not None and is_dead(to_identity(row))):
                dead.append(row)
        return [run for row in dead if (run := self._expire(row)) is not None]

    def _seconds_unchanged(self, row: Row[Any], before: tuple[_LeaseMark, float] | None) -> float:
        mark, clock_now = (row.fence, row.renewals), self._clock()
        since = before[1] if before and before[0] == mark else clock_now
        self._unchanged_since[row.id] = mark, since
        return clock_now - since

    @read_tx
    def _running(self, db: Connection) -> list[Row[Any]]:
        lapsed = case((runs.c.lease_until < now(), 1), else_=0).label("lapsed")
        worker = [c.label(f"worker_{c.name}") for c in workers.c]
        return list(
            db.execute(
                select(runs.c.id, runs.c.attempt, runs.c.fence, runs.c.renewals, lapsed, *worker)
                .join(workers, workers.c.id == runs.c.worker_id)
                .where(runs.c.state == RunState.RUNNING)
            )
        )

    @exclusive_tx
    def _expire(self, db: Connection, row: Row[Any]) -> Run | None:
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
