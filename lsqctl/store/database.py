"""Transactions: short, retried while the database is busy, and failing in one clear line."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from lsqctl.errors import StoreError
from lsqctl.store.engine import WRITES, is_sqlite, make_engine, masked

P = ParamSpec("P")
T = TypeVar("T")

TRIES = 3
STRUCTURE_LOCK = 0x6C737163  # "lsqc": changes that touch several runs go one at a time

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
        self._inherited: list[Engine] = []

    @property
    def engine(self) -> Engine:
        """The engine of this process: a forked child must not touch its parent's connections."""
        if self._pid != os.getpid():
            self._inherited.append(self._engine)  # kept alive: closing it would be touching it
            self._engine = make_engine(self.url, **self._options)
            self._pid = os.getpid()
        return self._engine

    @property
    def sqlite(self) -> bool:
        """Whether this is SQLite."""
        return is_sqlite(self.url)

    def check_there(self) -> None:
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
        return self._run(work, {}, structural=False)

    def write(self, work: Callable[[Connection], T], *, structural: bool = False) -> T:
        """Return ``work(connection)`` from one write transaction; an exception undoes all of it.

        ``work`` may run more than once. ``structural`` work may look at several runs and change
        them: it runs alone (on SQLite all writing does). Raises StoreError.
        """
        return self._run(work, {WRITES: True}, structural=structural)

    def _run(
        self, work: Callable[[Connection], T], options: dict[str, Any], *, structural: bool
    ) -> T:
        with self.translated():
            for remaining in reversed(range(TRIES)):
                try:
                    with self.engine.execution_options(**options).begin() as connection:
                        if structural and not self.sqlite:
                            connection.execute(_LOCK, {"key": STRUCTURE_LOCK})
                        return work(connection)
                except OperationalError as error:
                    if not remaining or not _is_transient(error):
                        raise
                    time.sleep(random.uniform(0.05, 0.3))  # noqa: S311 (jitter)
        raise AssertionError("unreachable")  # pragma: no cover

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the database's errors into StoreError: one line, without a password."""
        try:
            yield
        except (DBAPIError, PoolTimeout) as error:
            raise StoreError(self._explain(error)) from error

    def _explain(self, error: DBAPIError | PoolTimeout) -> str:
        cause = error.orig if isinstance(error, DBAPIError) else error
        what = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        advice = _advice(what)
        if self.url.password:
            what = what.replace(str(self.url.password), "***")
        return f"database {masked(self.url)}: {what}{advice}"


_LOCK = text("SELECT pg_advisory_xact_lock(:key)")

_ADVICE = {
    "database is locked": "another process has held it for long; try again, or look for it",
    "not a database": "the file is something else; name another with --db",
    "disk is full": "free some space; what was stored before is safe",
    "readonly": "the file or its folder cannot be written; check the permissions",
    "unable to open": "check that the folder exists and can be written",
    "Connection refused": "is the server running?",
}


def _advice(what: str) -> str:
    return next((f"; {advice}" for sign, advice in _ADVICE.items() if sign in what), "")


def _is_transient(error: OperationalError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state in _TRANSIENT
    what = str(error.orig)
    return "database is locked" in what or "Connection refused" in what


class _HasDatabase(Protocol):
    @property
    def _database(self) -> Database: ...


S = TypeVar("S", bound=_HasDatabase)


def reads(method: Callable[Concatenate[S, Connection, P], T]) -> Callable[Concatenate[S, P], T]:
    """Run a method in one read transaction."""
    return _transactional(method, lambda db, work: db.read(work))


def writes(method: Callable[Concatenate[S, Connection, P], T]) -> Callable[Concatenate[S, P], T]:
    """Run a method in one write transaction that changes a single run, or none."""
    return _transactional(method, lambda db, work: db.write(work))


def reshapes(method: Callable[Concatenate[S, Connection, P], T]) -> Callable[Concatenate[S, P], T]:
    """Run a method in one write transaction that may change several runs, so alone."""
    return _transactional(method, lambda db, work: db.write(work, structural=True))


def _transactional(
    method: Callable[Concatenate[S, Connection, P], T],
    begin: Callable[[Database, Callable[[Connection], T]], T],
) -> Callable[Concatenate[S, P], T]:
    @wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return begin(self._database, lambda db: method(self, db, *args, **kwargs))

    return call
