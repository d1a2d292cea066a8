"""One engine for SQLite and PostgreSQL: where a file may lie, how transactions begin."""

from __future__ import annotations

import os
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import cast
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from lsqctl.atomic_write import inode_hint
from lsqctl.errors import StoreError
from lsqctl.ownership import is_public, make_missing_dirs
from lsqctl.retry import jitter, retry
from lsqctl.run import JsonObject

MOUNTS = Path("/proc/mounts")
_NETWORK_FILE_SYSTEMS = frozenset(
    """9p afs beegfs ceph cifs coda davfs fuse glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs
    pvfs2 smb2 smb3 smbfs""".split()
)
# The WAL-reset bug: several writers can corrupt a WAL database. Fixed in 3.51.3, and back-ported.
_WAL_FIXED = (3, 51, 3)
_WAL_BACKPORTS: dict[tuple[int, ...], int] = {(3, 44): 6, (3, 50): 7}


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Return whether this version of SQLite may use WAL with several writers."""
    patch = _WAL_BACKPORTS.get(version[:2])
    return version >= _WAL_FIXED or (patch is not None and version[2] >= patch)


def file_system_type(path: Path, mounts: str) -> str:
    """Return the type of the file system that holds ``path``, by a text like /proc/mounts."""
    best, kind = "", ""
    for line in mounts.splitlines():
        mount_point, this_kind = line.split()[1:3]
        mount_point = (
            mount_point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        )
        covers_path = path.is_relative_to(mount_point)
        if covers_path and len(mount_point) >= len(best):  # a later mount covers an earlier one
            best, kind = mount_point, this_kind
    return kind


def is_network_file_system(kind: str) -> bool:
    """Return whether file locks cannot be trusted on this type of file system."""
    return kind in _NETWORK_FILE_SYSTEMS or (kind.startswith("fuse.") and kind != "fuse.lxcfs")


def prepare_file(path: Path) -> None:
    """Make sure that ``path`` is a database file, or can become one, in a safe folder.

    A missing folder is made with mode 0700, a missing file with 0600; SQLite gives its journal
    the file's mode. Raises StoreError.
    """
    try:
        make_missing_dirs(path.parent)
        _check_folder(path.parent)
        if path.is_dir():
            raise StoreError(f"{path} is a folder; name a database file inside it")
        _create_private_file(path)
    except OSError as error:
        raise StoreError(
            f"cannot use the database {path}: {error.strerror or error}{inode_hint(error, path)}; "
            "choose another folder with --home or --db"
        ) from error


def _check_folder(folder: Path) -> None:
    mounts = MOUNTS.read_text() if MOUNTS.exists() else ""
    kind = file_system_type(folder.resolve(), mounts)
    if is_network_file_system(kind):
        raise StoreError(
            f"{folder} is on a network file system ({kind}), where SQLite's locks are not safe; "
            "use PostgreSQL: --db postgresql+psycopg://USER@HOST/NAME"
        )
    if is_public(folder):
        raise StoreError(
            f"{folder} is writable by everyone: anyone could plant a journal there that SQLite "
            f"would play back into the database; use a private folder, or chmod o-w {folder}"
        )


def _create_private_file(path: Path) -> None:
    if path.exists():
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open(path, flags, 0o600))
    except FileExistsError:
        if path.is_symlink():
            raise


WRITE_OPTION = "lsqctl_writes"  # the execution option of a connection that is going to write
NO_WAIT_OPTION = "lsqctl_no_wait"  # of one that fails at once where the database is locked
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


def _on_read_only_connect(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA query_only=ON")


def _sqlite(url: URL, busy_seconds: float) -> Engine:
    prepare_file(Path(str(url.database)))
    engine = create_engine(url, connect_args={"timeout": busy_seconds})
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", partial(_on_sqlite_begin, busy_seconds))
    return engine


def _on_sqlite_connect(connection: sqlite3.Connection, _record: object) -> None:
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
    options = connection.get_execution_options()
    raw = cast("sqlite3.Connection", connection.connection.dbapi_connection)
    if not options.get(WRITE_OPTION):
        wait = 0 if options.get(NO_WAIT_OPTION) else busy_seconds
        raw.execute(f"PRAGMA busy_timeout={int(wait * 1000)}")
        connection.exec_driver_sql("BEGIN")
        return
    raw.execute("PRAGMA busy_timeout=0")
    try:
        if not _begin_immediate(raw, busy_seconds):
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # fails in SQLAlchemy's words
    finally:
        raw.execute(f"PRAGMA busy_timeout={int(busy_seconds * 1000)}")


def _begin_immediate(raw: sqlite3.Connection, seconds: float) -> bool:
    """Begin to write; return False when others held the lock for all these seconds.

    Every waiter tries again after a few milliseconds, at random. SQLite's own waiting looks the
    more seldom the longer it has waited: among 16 writers one never came to its turn in 15 s.
    """
    deadline = time.monotonic() + seconds

    def delay_after(error: sqlite3.OperationalError, _failures: int) -> float | None:
        busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
        return jitter(*_RETRY_DELAY_SECONDS) if busy and time.monotonic() < deadline else None

    try:
        retry(lambda: raw.execute("BEGIN IMMEDIATE"), sqlite3.OperationalError, delay_after)
    except sqlite3.OperationalError:
        return False
    return True


def _session_settings(
    busy_seconds: float, lease_seconds: float, *, read_only: bool
) -> dict[str, object]:
    peer_timeout = max(2, int(lease_seconds / 3))  # a dead peer is noticed well within a lease
    return {
        "connect_timeout": max(2, peer_timeout // 2),
        "tcp_user_timeout": peer_timeout * 1000,
        "keepalives_idle": peer_timeout,
        "client_encoding": "utf8",  # else a server of SQL_ASCII answers in bytes
        "options": f"-c timezone=utc -c lock_timeout={int(busy_seconds * 1000)}"
        " -c idle_in_transaction_session_timeout=60000"
        + (" -c default_transaction_read_only=on" if read_only else ""),
    }


def _postgresql(url: URL, busy_seconds: float, lease_seconds: float, *, read_only: bool) -> Engine:
    try:
        from lsqctl.store.read_timeout import TimeoutConnection
    except ModuleNotFoundError as error:
        raise StoreError(
            "PostgreSQL needs the driver psycopg: pip install 'lsqctl[postgres]'"
        ) from error
    settings = _session_settings(busy_seconds, lease_seconds, read_only=read_only)
    engine = create_engine(url, pool_pre_ping=True, connect_args=settings)

    def connect(
        _dialect: object, _record: object, args: tuple[str, ...], kwargs: JsonObject
    ) -> TimeoutConnection:
        connection = TimeoutConnection.connect(*args, **kwargs)
        # a statement may wait in silence for a lock, but no longer than lock_timeout
        connection.read_timeout = max(2.0, lease_seconds / 6, busy_seconds + 2)
        return connection

    event.listen(engine, "do_connect", connect)
    return engine
