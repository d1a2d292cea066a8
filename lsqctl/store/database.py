"""Transactions: short, retried while the database is busy, failing in one clear line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from lsqctl.errors import StoreError
from lsqctl.retry import jitter, retry
from lsqctl.store.engine import WRITE_OPTION, is_sqlite, make_engine, masked

P = ParamSpec("P")
T = TypeVar("T")

MAX_TRIES = 3
EXCLUSIVE_LOCK_KEY = 0x6C737163  # "lsqc": changes that touch several runs go one at a time

# PostgreSQL: serialization failure, deadlock, lock not available, cannot connect now, shutdown
_TRANSIENT = frozenset({"40001", "40P01", "55P03", "57P03"})


class Database:
    """One database, by URL; safe to carry across a fork."""

    def __init__(
        self, url: URL, *, busy_seconds: float, lease_seconds: float, read_only: bool = False
    ) -> None:
        self.url = url
        self._options: dict[str, Any] = {
            "busy_seconds": busy_seconds,
            "lease_seconds": lease_seconds,
            "read_only": read_only,
        }
        self._engine = make_engine(url, **self._options)
        self._pid = os.getpid()
        self._inherited_engines: list[Engine] = []

    @property
    def engine(self) -> Engine:
        """The engine of this process: a forked child must not touch its parent's connections."""
        if self._pid != os.getpid():
            # kept alive: closing it would be touching it
            self._inherited_engines.append(self._engine)
            self._engine = make_engine(self.url, **self._options)
            self._pid = os.getpid()
        return self._engine

    @property
    def sqlite(self) -> bool:
        """Whether this is SQLite."""
        return is_sqlite(self.url)

    def ensure_exists(self) -> None:
        """Raise StoreError when SQLite's file was removed: what is written now is lost."""
        if self.sqlite and not os.path.exists(str(self.url.database)):
            raise StoreError(
                f"the database {masked(self.url)} was removed; nothing can be stored in it"
            )

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Return ``work(connection)`` from one read transaction.  Raises StoreError."""
        return self._run(work, {}, exclusive=False)

    def write(self, work: Callable[[Connection], T], *, exclusive: bool = False) -> T:
        """Return ``work(connection)`` from one write transaction; an exception undoes all of it.

        ``work`` may run more than once. ``exclusive`` work may read several runs and change
        them: it runs alone (on SQLite all writing does). Raises StoreError.
        """
        return self._run(work, {WRITE_OPTION: True}, exclusive=exclusive)

    def _run(
        self, work: Callable[[Connection], T], options: dict[str, Any], *, exclusive: bool
    ) -> T:
        with self.translate_errors():
            return retry(
                partial(self._run_once, work, options, exclusive), OperationalError, _delay
            )

    def _run_once(
        self, work: Callable[[Connection], T], options: dict[str, Any], exclusive: bool
    ) -> T:
        with self.engine.execution_options(**options).begin() as connection:
            if exclusive and not self.sqlite:
                connection.execute(TAKE_EXCLUSIVE_LOCK, {"key": EXCLUSIVE_LOCK_KEY})
            return work(connection)

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn the database's errors into StoreError: one line, without a password."""
        try:
            yield
        except (DBAPIError, PoolTimeout) as error:
            raise StoreError(self._explain(error)) from error

    def _explain(self, error: DBAPIError | PoolTimeout) -> str:
        cause = error.orig if isinstance(error, DBAPIError) else error
        message = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        advice = _advice(message)
        if self.url.password:
            message = message.replace(str(self.url.password), "***")
        return f"database {masked(self.url)}: {message}{advice}"


TAKE_EXCLUSIVE_LOCK = text("SELECT pg_advisory_xact_lock(:key)")

_ADVICE = {
    "database is locked": "another process has held it for long; try again, or look for it",
    "not a database": "the file is something else; name another with --db",
    "disk is full": "free some space; what was stored before is safe",
    "readonly": "the file or its folder cannot be written; check the permissions",
    "unable to open": "check that the folder exists and can be written",
    "Connection refused": "is the server running?",
}


def _advice(message: str) -> str:
    return next((f"; {advice}" for sign, advice in _ADVICE.items() if sign in message), "")


def _delay(error: OperationalError, failures: int) -> float | None:
    return jitter(0.05, 0.3) if failures < MAX_TRIES and _is_transient(error) else None


def _is_transient(error: OperationalError) -> bool:
    sqlstate = getattr(error.orig, "sqlstate", None)
    if sqlstate is not None:
        return sqlstate in _TRANSIENT
    message = str(error.orig)
    return "database is locked" in message or "Connection refused" in message


class _HasDatabase(Protocol):
    @property
    def _database(self) -> Database: ...


S = TypeVar("S", bound=_HasDatabase)


def read_tx(method: Callable[Concatenate[S, Connection, P], T]) -> Callable[Concatenate[S, P], T]:
    """Run a method in one read transaction."""
    return _transactional(method, lambda db, work: db.read(work))


def write_tx(method: Callable[Concatenate[S, Connection, P], T]) -> Callable[Concatenate[S, P], T]:
    """Run a method in one write transaction that changes a single run, or none."""
    return _transactional(method, lambda db, work: db.write(work))


def exclusive_tx(
    method: Callable[Concatenate[S, Connection, P], T],
) -> Callable[Concatenate[S, P], T]:
    """Run a method in one write transaction that may change several runs, so alone."""
    return _transactional(method, lambda db, work: db.write(work, exclusive=True))


def _transactional(
    method: Callable[Concatenate[S, Connection, P], T],
    begin: Callable[[Database, Callable[[Connection], T]], T],
) -> Callable[Concatenate[S, P], T]:
    @wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return begin(self._database, lambda db: method(self, db, *args, **kwargs))

    return call


@dataclass
class StorePart:
    """``_clock`` gives monotonic seconds of this process, and is injected by tests."""

    _database: Database
    lease_seconds: float
    _clock: Callable[[], float]
