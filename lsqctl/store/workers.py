"""Who works here: workers register, send heartbeats, and deregister."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select, update

from lsqctl.errors import NotFound, UsageError
from lsqctl.run import WorkerIdentity
from lsqctl.store.database import StorePart, read_tx, write_tx
from lsqctl.store.dialects import now, upsert
from lsqctl.store.tables import AnyRow, workers

_IDENTITY_FIELDS = tuple(WorkerIdentity.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class RegisteredWorker:
    """A worker as the store has it. ``stopped_at`` is None until it deregisters."""

    identity: WorkerIdentity
    registered_at: datetime
    last_heartbeat_at: datetime
    stopped_at: datetime | None
    notice: str = ""  # why it leaves a GPU alone


class Workers(StorePart):
    """Registering workers."""

    @write_tx
    def register(
        self,
        db: Connection,
        identity: WorkerIdentity,
        *,
        is_dead: Callable[[WorkerIdentity], bool] | None = None,
    ) -> None:
        """Make a worker known; again is allowed, and brings it back.

        With ``is_dead``, which tells that a worker is provably dead, no other live worker may have
        its name: UsageError.
        """
        if is_dead is not None and (other := self._same_name(db, identity, is_dead)) is not None:
            raise UsageError(
                f"worker {identity.name} is at work already, as process {other.pid} on "
                f"{other.host}; choose another --name"
            )
        values = {name: getattr(identity, name) for name in _IDENTITY_FIELDS}
        times = {
            "registered_at": now(),
            "last_heartbeat_at": now(),
            "stopped_at": None,
            "notice": "",
        }
        upsert(db, workers, [values | times])

    def _same_name(
        self, db: Connection, identity: WorkerIdentity, is_dead: Callable[[WorkerIdentity], bool]
    ) -> WorkerIdentity | None:
        """Return another worker of this name that was seen within a lease."""
        rows = db.execute(
            select(*(c.label(f"worker_{c.name}") for c in workers.c)).where(
                workers.c.name == identity.name,
                workers.c.id != identity.id,
                workers.c.stopped_at.is_(None),
                workers.c.last_heartbeat_at >= now(-self.lease_seconds),
            )
        )
        return next((worker for worker in map(to_identity, rows) if not is_dead(worker)), None)

    @write_tx
    def set_notice(self, db: Connection, worker_id: str, notice: str) -> None:
        """Keep a line on why a worker leaves a GPU alone; empty takes it away.  Raises NotFound."""
        _update_worker(db, worker_id, notice=notice)

    @write_tx
    def heartbeat(self, db: Connection, worker_id: str) -> None:
        """Note that a worker lives.  Raises NotFound."""
        _update_worker(db, worker_id, last_heartbeat_at=now())

    @write_tx
    def deregister(self, db: Connection, worker_id: str) -> None:
        """Note that a worker has ended in order.  Raises NotFound."""
        _update_worker(db, worker_id, last_heartbeat_at=now(), stopped_at=now())

    @read_tx
    def list(self, db: Connection) -> Sequence[RegisteredWorker]:
        """Return every worker ever registered, the latest first."""
        rows = db.execute(
            select(
                *(c.label(f"worker_{c.name}") for c in workers.c),
            ).order_by(workers.c.registered_at.desc(), workers.c.id)
        )
        return [
            RegisteredWorker(
                to_identity(row),
                row.worker_registered_at,
                row.worker_last_heartbeat_at,
                row.worker_stopped_at,
                row.worker_notice,
            )
            for row in rows
        ]


def _update_worker(db: Connection, worker_id: str, **values: object) -> None:
    if db.execute(update(workers).where(workers.c.id == worker_id).values(**values)).rowcount == 0:
        raise NotFound(f"no worker has the id {worker_id}; register it first")


def to_identity(row: AnyRow) -> WorkerIdentity:
    """Return the identity in a row whose columns are labelled ``worker_…``."""
    return WorkerIdentity(**{name: getattr(row, f"worker_{name}") for name in _IDENTITY_FIELDS})
