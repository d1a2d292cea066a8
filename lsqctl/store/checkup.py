"""What a look-over asks of the queue: what is held, too large for anyone, or waiting too long."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, func, select

from lsqctl.run import RunState
from lsqctl.store.base import StorePart
from lsqctl.store.columns import now
from lsqctl.store.database import read_tx
from lsqctl.store.tables import checkpoints, runs


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """Runs that may never start by themselves; an empty id where there is none."""

    held: int
    held_run: str
    max_gpus: int
    largest_run: str
    oldest_run: str
    oldest_hours: float


class QueueHealthChecks(StorePart):
    """Looking the queue over."""

    @read_tx
    def queue_health(self, db: Connection, min_wait: timedelta) -> QueueHealth:
        """Return the state of what is not started; the oldest only if it waits for ``min_wait``."""
        not_started = runs.c.state.in_([RunState.WAITING, RunState.QUEUED])
        held = not_started, runs.c.held.is_(True)
        ready = runs.c.state == RunState.QUEUED, runs.c.held.is_(False)
        first_held = db.scalar(select(runs.c.id).where(*held).order_by(runs.c.seq).limit(1))
        largest = select(runs.c.id, runs.c.gpus).where(*ready)
        largest_row = db.execute(largest.order_by(runs.c.gpus.desc(), runs.c.seq).limit(1)).one_or_none()
        waiting = select(runs.c.id, runs.c.created_at, now().label("now")).where(
            *ready, runs.c.attempt == 0, runs.c.created_at < now(-min_wait.total_seconds())
        )
        oldest = db.execute(waiting.order_by(runs.c.created_at).limit(1)).one_or_none()
        return QueueHealth(
            held=db.scalar(select(func.count()).select_from(runs).where(*held)) or 0,
            held_run=first_held or "",
            max_gpus=largest_row.gpus if largest_row else 0,
            largest_run=largest_row.id if largest_row else "",
            oldest_run=oldest.id if oldest else "",
            oldest_hours=(oldest.now - oldest.created_at).total_seconds() / 3600 if oldest else 0.0,
        )

    @read_tx
    def checkpoint_directories(self, db: Connection) -> list[tuple[str, str]]:
        """Return (run id, folder) of every checkpoint that has a row."""
        query = select(checkpoints.c.run_id, checkpoints.c.directory)
        return [(row.run_id, row.directory) for row in db.execute(query)]
