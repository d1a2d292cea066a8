"""The database behind one object, by parts: the only SQL, on SQLite or PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from lsqctl.store.checkpoints import Checkpoints
from lsqctl.store.database import Database
from lsqctl.store.engine import masked, parse_url
from lsqctl.store.halving import Rungs
from lsqctl.store.maintenance import Maintenance
from lsqctl.store.metrics import Metrics
from lsqctl.store.migrate import ensure_schema
from lsqctl.store.queue import Queue
from lsqctl.store.results import Results
from lsqctl.store.runs import Runs
from lsqctl.store.soft_delete import Trash
from lsqctl.store.sweeps import Sweeps
from lsqctl.store.transfer import Transfer
from lsqctl.store.workers import Workers

BUSY_SECONDS = 5.0  # for one try; with its retries less than a lease of 30 s


class Store:
    """Runs, their queue, their metrics and their results, each a part: ``store.queue.claim(…)``.

    Delivery is at least once, effect exactly once: all that an attempt writes is guarded by its
    fence, and raises LeaseLost, with nothing changed, once another attempt owns the run. Every
    method of a part is one transaction and raises StoreError, in one line, when the database fails.
    """

    def __init__(
        self, database: Database, lease_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self.lease_seconds = lease_seconds
        self.queue = Queue(database, lease_seconds, clock)
        self.runs = Runs(database, lease_seconds, clock)
        self.metrics = Metrics(database, lease_seconds, clock)
        self.checkpoints = Checkpoints(database, lease_seconds, clock)
        self.results = Results(database, lease_seconds, clock)
        self.rungs = Rungs(database, lease_seconds, clock)
        self.sweeps = Sweeps(database, lease_seconds, clock)
        self.workers = Workers(database, lease_seconds, clock)
        self.trash = Trash(database, lease_seconds, clock)
        self.transfer = Transfer(database, lease_seconds, clock)
        self.maintenance = Maintenance(database, lease_seconds, clock)

    @property
    def url(self) -> str:
        """The database's URL for people, its password hidden."""
        return masked(self._database.url)

    def ensure_usable(self) -> None:
        """Raise UnusableDatabase when it was removed, replaced or upgraded since it was opened."""
        self._database.ensure_usable()

    def has_its_file(self) -> bool:
        """Whether SQLite's file is the one that was opened; True of a server."""
        return self._database.has_its_file()

    def close(self) -> None:
        """Close every connection; a later call opens new ones."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()


def open_store(
    url: str,
    *,
    lease_seconds: float = 30.0,
    migrate: bool = True,
    read_only: bool = False,
    busy_seconds: float = BUSY_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Store:
    """Open the database at ``url``, made or upgraded first where it must be.

    ``sqlite:///PATH`` or ``postgresql+psycopg://USER@HOST/NAME``. ``clock`` gives this process's
    monotonic seconds. A ``read_only`` store makes and upgrades nothing, and its connections refuse
    every write. Raises StoreError for a database that is unreachable, unsafe or newer.
    """
    database = Database(
        parse_url(url),
        busy_seconds=busy_seconds,
        lease_seconds=lease_seconds,
        read_only=read_only,
    )
    try:
        ensure_schema(database, migrate=migrate and not read_only)
    except BaseException:
        database.close()
        raise
    return Store(database, lease_seconds, clock)
