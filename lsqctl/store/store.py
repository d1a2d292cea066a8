"""The database behind one class: the only SQL, on SQLite or PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from lsqctl.store.attempt_completion import Reaper
from lsqctl.store.checkpoints import Checkpoints, RunRetentions
from lsqctl.store.database import Database
from lsqctl.store.engine import masked, parse_url
from lsqctl.store.enqueue import Enqueues
from lsqctl.store.maintenance import Backups, IntegrityChecks
from lsqctl.store.metrics import Metrics, QuantizerStatsReads
from lsqctl.store.migrate import ensure_schema
from lsqctl.store.queue import Queue
from lsqctl.store.queue_overview import QueueHealthChecks, QueueOverviews
from lsqctl.store.results import Results
from lsqctl.store.runs import RunCommands, RunRefs, Runs, RunStatuses
from lsqctl.store.soft_delete import Trash
from lsqctl.store.sweeps import Sweeps
from lsqctl.store.workers import Workers

BUSY_SECONDS = 5.0  # for one try; with its retries less than a lease of 30 s


class Store(
    Enqueues,
    Queue,
    Metrics,
    QuantizerStatsReads,
    Checkpoints,
    Reaper,
    RunCommands,
    Workers,
    Runs,
    Sweeps,
    RunRefs,
    Results,
    QueueOverviews,
    RunStatuses,
    RunRetentions,
    Trash,
    Backups,
    QueueHealthChecks,
    IntegrityChecks,
):
    """Runs, their queue, their metrics and their results.

    Delivery is at least once, effect exactly once: all that an attempt writes is guarded by its
    fence, and raises LeaseLost, with nothing changed, once another attempt owns the run. Every
    method is one transaction and raises StoreError, in one line, when the database fails.
    """

    @property
    def url(self) -> str:
        """The database's URL for people, its password hidden."""
        return masked(self._database.url)

    def ensure_exists(self) -> None:
        """Raise StoreError when the file of the database was removed since it was opened."""
        self._database.ensure_exists()

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
