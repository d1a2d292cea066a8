"""Transactions: short, retried while the database is busy, failing in one clear line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from lsqctl.errors import LockedDatabase, StoreError, UnusableDatabase
from lsqctl.retry import jitter, retry
from lsqctl.store.engine import NO_WAIT_OPTION, WRITE_OPTION, is_sqlite, make_engine, masked
from lsqctl.store.file_checks import FileId, damage, file_id, list_backups, lock_holders

P = ParamSpec("P")
T = TypeVar("T")

MAX_TRIES = 3
EXCLUSIVE_LOCK_KEY = 0x6C737163  # "lsqc": changes that touch several runs go one at a time
_DROPPED = re.compile(r'(?:database|role) "([^"]*)" does not exist')

_LOCK_TIMEOUT = "55P03"
# PostgreSQL: serialization failure, deadlock, lock not available, cannot connect now, shutdown
_TRANSIENT = frozenset({"40001", "40P01", _LOCK_TIMEOUT, "57P03"})


class Database:
    """One database, by URL; safe to carry across a fork."""

    def __init__(
        self, url: URL, *, busy_seconds: float, lease_seconds: float, read_only: bool = False
    ) -> None:
        self.url = url
        self._make_engine = partial(
            make_engine,
            url,
            busy_seconds=busy_seconds,
            lease_seconds=lease_seconds,
            read_only=read_only,
        )
        self.lease_seconds = lease_seconds
        self.schema: str | None = None  # the revision that it was opened with
        self._engine = self._make_engine()
        self._file = self._file_id()
        self._pid = os.getpid()
        self._inherited_engines: list[Engine] = []

    @property
    def engine(self) -> Engine:
        """The engine of this process: a forked child must not touch its parent's connections."""
        if self._pid != os.getpid():
            # kept alive: closing it would be touching it
            self._inherited_engines.append(self._engine)
            self._engine = self._make_engine()
            self._pid = os.getpid()
        return self._engine

    @property
    def sqlite(self) -> bool:
        """Whether this is SQLite."""
        return is_sqlite(self.url)

    def ensure_usable(self) -> None:
        """Raise UnusableDatabase when what was opened is not what is there now; waits for nothing.

        A database that is locked or away says nothing of that, and passes.
        """
        try:
            reason = self._file_problem() or self._schema_problem()
        except OperationalError as error:
            reason = self._dropped_reason(error)
        except DBAPIError as error:
            raise self._to_store_error(error) from error
        if reason:
            raise UnusableDatabase(f"the database {masked(self.url)} {reason}")

    def _file_id(self) -> FileId | None:
        return file_id(self._path) if self.sqlite else None

    @property
    def _path(self) -> Path:
        return Path(str(self.url.database))

    def has_its_file(self) -> bool:
        """Whether SQLite's file is the one that was opened; True of a server."""
        return self._file is None or self._file_id() == self._file

    def _file_problem(self) -> str:
        """Return what became of SQLite's file since it was opened; nothing when it is the same."""
        if self.has_its_file():
            return ""
        if self._file_id() is None:
            return "was removed; nothing can be stored in it"
        return "was replaced by another file; what works with it must be started again"

    def _schema_problem(self) -> str:
        """Return how the schema has changed since it was opened; nothing when it has not."""
        if self.schema is None:
            return ""
        with self.engine.execution_options(**{NO_WAIT_OPTION: True}).connect() as connection:
            current = current_revision(connection)
        if current == self.schema:
            return ""
        if current is None:
            return f"has lost its tables; {self._restore_advice()}"
        return (
            f"has schema {current} by now, this lsqctl works with {self.schema}; start what works "
            "with it again, with the lsqctl that has upgraded it"
        )

    def _dropped_reason(self, error: DBAPIError) -> str:
        """Return a server's words when it has no such database or role; they come unnumbered."""
        said = _DROPPED.search(str(error.orig))
        if self.sqlite or said is None:
            return ""
        if self.schema is None:  # it was never opened: a name that is not so, or not yet
            what = "createdb" if said[0].startswith("database") else "createuser"
            return (
                f"cannot be used: {said[0]} on the server; `{what} {said[1]}` there makes it, "
                "--db names another"
            )
        return f"cannot be used: {said[0]} on the server by now; {self._restore_advice()}"

    def _restore_advice(self) -> str:
        return list_backups(self._path) if self.sqlite else "restore a copy made by pg_dump"

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
        self, work: Callable[[Connection], T], options: dict[str, object], *, exclusive: bool
    ) -> T:
        with self.translate_errors():
            return retry(
                partial(self._run_once, work, options, exclusive), OperationalError, _delay
            )

    def _run_once(
        self, work: Callable[[Connection], T], options: dict[str, object], exclusive: bool
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
            raise self._to_store_error(error) from error

    def _to_store_error(self, error: DBAPIError | PoolTimeout) -> StoreError:
        if reason := self._unusable_reason(error):
            return UnusableDatabase(f"the database {masked(self.url)} {reason}")
        is_locked = isinstance(error, DBAPIError) and _is_locked(error)
        return (LockedDatabase if is_locked else StoreError)(self._explain(error))

    def _unusable_reason(self, error: DBAPIError | PoolTimeout) -> str:
        """Return why trying again cannot help; nothing where it can, or only the caller knows."""
        if isinstance(error, PoolTimeout) or _is_transient(error):
            return ""
        if reason := self._file_problem() or self._dropped_reason(error):
            return reason
        if sign := damage(error.orig):
            return f"is damaged ({sign}); {self._restore_advice()}, or name another with --db"
        answered = self.sqlite or getattr(error.orig, "sqlstate", None) is not None
        try:
            return self._schema_problem() if answered else ""
        except DBAPIError:
            return ""

    def _explain(self, error: DBAPIError | PoolTimeout) -> str:
        cause = error.orig if isinstance(error, DBAPIError) else error
        message = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        advice = _advice(message)
        if self.sqlite and _LOCKED in message:
            advice = f"; {lock_holders(self._path) or advice[2:]}"
        if self.url.password:
            message = message.replace(str(self.url.password), "***")
        return f"database {masked(self.url)}: {message}{advice}"


def current_revision(db: Connection) -> str | None:
    """Return the database's revision; None for one that is new."""
    if not inspect(db).has_table("alembic_version"):
        return None
    revision: str | None = db.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


TAKE_EXCLUSIVE_LOCK = text("SELECT pg_advisory_xact_lock(:key)")

_LOCKED = "database is locked"  # in SQLite's words
_ADVICE = {
    _LOCKED: "another process has held it for long; try again, or look for it",
    "disk is full": "free some space; what was stored before is safe",
    "readonly": "the file or its folder cannot be written; check the permissions",
    "unable to open": "check that the folder exists and can be written",
    "Connection refused": "is the server running?",
    "lock timeout": "another process has held it for long; try again, or look for it",
    "no password supplied": "give it in ~/.pgpass, in PGPASSWORD, or in the URL",
    "too many clients": "let it serve more (max_connections), or stop some workers",
    "connection slots": "let it serve more (max_connections), or stop some workers",
    "read-only transaction": "name a server that may be written (the primary of a standby)",
    "permission denied": "`lsqctl db grants` prints what its owner may grant",
}


def _advice(message: str) -> str:
    return next((f"; {advice}" for sign, advice in _ADVICE.items() if sign in message), "")


def _delay(error: OperationalError, failures: int) -> float | None:
    return jitter(0.05, 0.3) if failures < MAX_TRIES and _is_transient(error) else None


def _is_transient(error: DBAPIError) -> bool:
    sqlstate = getattr(error.orig, "sqlstate", None)
    if sqlstate is not None:
        return sqlstate in _TRANSIENT
    return _is_locked(error) or "Connection refused" in str(error.orig)


def _is_locked(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) == _LOCK_TIMEOUT or _LOCKED in str(error.orig)


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
