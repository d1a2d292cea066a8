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
from lsqctl.store.database import reads, reshapes
from lsqctl.store.endings import Endings
from lsqctl.store.rows import lease_of, load_runs
from lsqctl.store.tables import runs, workers
from lsqctl.store.workers import to_identity

_Seen = tuple[str, int]  # fence and renewal counter


@dataclass
class Reaper(Endings):
    """Reaping. ``_seen`` holds since when (own clock) a run has looked the same."""

    def __post_init__(self) -> None:
        self._seen: dict[str, tuple[_Seen, float]] = {}

    def reap(self, *, gone: Callable[[WorkerIdentity], bool] | None = None) -> list[Run]:
        """End the attempts of dead workers as lost, and return their runs as they are now.

        A lease must be over by the database's clock, and this process must have seen its renewal
        counter unchanged for a whole lease by its own monotonic clock: a clock that jumps reaps
        nobody. ``gone`` may tell that a worker is provably dead (same host; pid, start time and
        boot id compared), which spares the second wait. A dead attempt is found within a lease and
        two calls after its last renewal.
        """
        running = self._running()
        before, self._seen = self._seen, {}
        dead = []
        for row in running:
            quiet = self._quiet_seconds(row, before.get(row.id))
            if not row.lapsed:
                continue
            if quiet >= self.lease_seconds or (gone is not None and gone(to_identity(row))):
                dead.append(row)
        return [run for row in dead if (run := self._bury(row)) is not None]

    def _quiet_seconds(self, row: Row[Any], before: tuple[_Seen, float] | None) -> float:
        looks, time = (row.fence, row.renewals), self._clock()
        since = before[1] if before and before[0] == looks else time
        self._seen[row.id] = looks, since
        return time - since

    @reads
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

    @reshapes
    def _bury(self, db: Connection, row: Row[Any]) -> Run | None:
        still = select(runs.c.id).where(
            runs.c.id == row.id,
            runs.c.fence == row.fence,
            runs.c.renewals == row.renewals,
            runs.c.lease_until < now(),
        )
        if db.scalar(still.with_for_update(key_share=True)) is None:
            return None  # it was heard of in the meantime
        failpoint("reap.before-bury")
        message = f"worker {row.worker_name} was not heard of for {self.lease_seconds:g} s"
        try:
            self._end(db, lease_of(row), EndReason.LOST, message)
        except LeaseLost:
            return None
        return load_runs(db, [row.id])[row.id]
