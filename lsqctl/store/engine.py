"""One engine for SQLite and PostgreSQL: how connections are made and transactions begin."""

from __future__ import annotations

import random
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from lsqctl.errors import StoreError
from lsqctl.store.safety import prepare_file, wal_is_safe

WRITE_OPTION = "lsqctl_writes"  # the execution option of a connection that is going to write
_RETRY_DELAY_SECONDS = (0.001, 0.01)


def parse_url(text: str) -> URL:
    """Return the checked URL.  Raises StoreError, which never holds a password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise StoreError(
            "the database URL cannot be read; write sqlite:///PATH or "
            "postgresql+psycopg://USER@HOST/NAME"
        ) from error
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise StoreError(
            f"unknown kind of database `{url.drivername}`; "
            "known are sqlite:///PATH and postgresql+psycopg://USER@HOST/NAME"
        )
    if is_sqlite(url) and url.database in (None, "", ":memory:"):
        raise StoreError("the database must be a file, for every process opens it on its own")
    return url


def is_sqlite(url: URL) -> bool:
    """Return whether the URL names a SQLite file."""
    return url.get_backend_name() == "sqlite"


def masked(url: URL) -> str:
    """Return the URL for people, every password hidden."""
    query = {key: "***" if "password" in key else value for key, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


def make_engine(
    url: URL, *, busy_seconds: float, lease_seconds: float, read_only: bool = False
) -> Engine:
    """Return an engine whose transactions are safe under several processes.  Raises StoreError.

    ``read_only`` connections can change nothing, and make no file.
    """
    if is_sqlite(url):
        return _read_only_sqlite(url, busy_seconds) if read_only else _sqlite(url, busy_seconds)
    return _postgresql(url, busy_seconds, lease_seconds, read_only=read_only)


def _read_only_sqlite(url: URL, busy_seconds: float) -> Engine:
    name = f"file:{quote(str(Path(str(url.database)).absolute()))}"
    read_only_url = url.set(database=name, query={"mode": "ro", "uri": "true"})
    engine = create_engine(read_only_url, connect_args={"timeout": busy_seconds})
    event.listen(engine, "connect", _on_read_only_connect)
    event.listen(engine, "begin", partial(_on_sqlite_begin, busy_seconds))
    return engine


def _on_read_only_connect(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA query_only=ON")


def _sqlite(url: URL, busy_seconds: float) -> Engine:
    prepare_file(Path(str(url.database)))
    engine = create_engine(url, connect_args={"timeout": busy_seconds})
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", partial(_on_sqlite_begin, busy_seconds))
    return engine


def _on_sqlite_connect(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver would begin late, and deferred
    mode = "WAL" if wal_is_safe(sqlite3.sqlite_version_info) else "PERSIST"
    (actual,) = connection.execute(f"PRAGMA journal_mode={mode}").fetchone()
    if actual != mode.lower():
        raise sqlite3.OperationalError(
            f"the journal mode is {actual}, not {mode.lower()}: stop the other processes once"
        )
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _on_sqlite_begin(busy_seconds: float, connection: Connection) -> None:
    # A write transaction that begins deferred fails at its first write when another was faster.
    if not connection.get_execution_options().get(WRITE_OPTION):
        connection.exec_driver_sql("BEGIN")
        return
    raw: Any = connection.connection.dbapi_connection
    raw.execute("PRAGMA busy_timeout=0")
    try:
        if not _begin_immediate(raw, busy_seconds):
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # fails in SQLAlchemy's words
    finally:
        raw.execute(f"PRAGMA busy_timeout={int(busy_seconds * 1000)}")


def _begin_immediate(raw: sqlite3.Connection, seconds: float) -> bool:
    """Begin to write; return False when others held the lock for all these seconds.

    Every waiter looks again after a few milliseconds, at random. SQLite's own waiting looks the
    more seldom the longer it has waited: among 16 writers one never came to its turn in 15 s.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            raw.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                return False
        else:
            return True
        time.sleep(random.uniform(*_RETRY_DELAY_SECONDS))  # noqa: S311 (jitter)
    return False


def _postgresql(url: URL, busy_seconds: float, lease_seconds: float, *, read_only: bool) -> Engine:
    peer_timeout = max(2, int(lease_seconds / 3))  # a dead peer is noticed well within a lease
    try:
        from lsqctl.store.answering import TimeoutConnection
    except ModuleNotFoundError as error:
        raise StoreError(
            "PostgreSQL needs the driver psycopg: pip install 'lsqctl[postgres]'"
        ) from error
    engine = create_engine(
        url,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": max(2, peer_timeout // 2),
            "tcp_user_timeout": peer_timeout * 1000,
            "keepalives_idle": peer_timeout,
            "options": f"-c timezone=utc -c lock_timeout={int(busy_seconds * 1000)}"
            " -c idle_in_transaction_session_timeout=60000"
            + (" -c default_transaction_read_only=on" if read_only else ""),
        },
    )

    def connect(_dialect: Any, _record: Any, args: Any, kwargs: Any) -> TimeoutConnection:
        connection = TimeoutConnection.connect(*args, **kwargs)
        # a statement may wait in silence for a lock, but no longer than lock_timeout
        connection.read_timeout = max(2.0, lease_seconds / 6, busy_seconds + 2)
        return connection

    event.listen(engine, "do_connect", connect)
    return engine
