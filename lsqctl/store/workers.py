"""Who works here: workers register, are seen, and say goodbye."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from lsqctl.errors import NotFound
from lsqctl.run import WorkerIdentity
from lsqctl.store.base import Base
from lsqctl.store.columns import now
from lsqctl.store.database import reads, writes
from lsqctl.store.tables import workers
from lsqctl.store.upsert import upsert

_IDENTITY = tuple(WorkerIdentity.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class KnownWorker:
    """A worker as the store knows it. ``gone_at`` is None until it has said goodbye."""

    identity: WorkerIdentity
    registered_at: datetime
    seen_at: datetime
    gone_at: datetime | None


class Workers(Base):
    """Registering workers."""

    @writes
    def register_worker(self, db: Connection, identity: WorkerIdentity) -> None:
        """Make a worker known; again is allowed, and brings it back."""
        values = {name: getattr(identity, name) for name in _IDENTITY}
        times = {"registered_at": now(), "seen_at": now(), "gone_at": None}
        upsert(db, workers, [values | times])

    @writes
    def worker_seen(self, db: Connection, worker_id: str) -> None:
        """Note that a worker lives.  Raises NotFound."""
        _touch(db, worker_id, seen_at=now())

    @writes
    def worker_gone(self, db: Connection, worker_id: str) -> None:
        """Note that a worker has ended in order.  Raises NotFound."""
        _touch(db, worker_id, seen_at=now(), gone_at=now())

    @reads
    def workers(self, db: Connection) -> list[KnownWorker]:
        """Return every worker ever registered, the latest first."""
        rows = db.execute(
            select(
                *(c.label(f"worker_{c.name}") for c in workers.c),
            ).order_by(workers.c.registered_at.desc(), workers.c.id)
        )
        return [
            KnownWorker(
                to_identity(row), row.worker_registered_at, row.worker_seen_at, row.worker_gone_at
            )
            for row in rows
        ]


def _touch(db: Connection, worker_id: str, **values: Any) -> None:
    if db.execute(update(workers).where(workers.c.id == worker_id).values(**values)).rowcount == 0:
        raise NotFound(f"no worker has the id {worker_id}; register it first")


def to_identity(row: Row[Any]) -> WorkerIdentity:
    """Return the identity in a row whose columns are labelled ``worker_…``."""
    return WorkerIdentity(**{name: getattr(row, f"worker_{name}") for name in _IDENTITY})
