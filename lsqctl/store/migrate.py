"""Bring a database to this version's schema, whole or not at all; refuse a newer one.

A new database gets the tables as they are declared, an older one every missing revision; a test
holds that both ways end at the same schema. Alembic is imported only when there is something to
upgrade: its import costs more than most commands take.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    and_,
    column,
    exists,
    inspect,
    or_,
    select,
    table,
    text,
)
from sqlalchemy.schema import CreateTable

from lsqctl.atomic_write import half_made
from lsqctl.bundled import bundled
from lsqctl.errors import OlderSchema, StoreError, UnusableDatabase
from lsqctl.run import RunState
from lsqctl.store.database import (
    EXCLUSIVE_LOCK_KEY,
    TAKE_EXCLUSIVE_LOCK,
    Database,
    current_revision,
)
from lsqctl.store.dialects import UtcDateTime, now
from lsqctl.store.engine import WRITE_OPTION
from lsqctl.store.tables import AnySelect, metadata

# as Alembic makes it; it is in no metadata, else Alembic would compare it
ALEMBIC_VERSION = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def shipped_revisions(scripts: Path) -> list[str]:
    """Return the revisions that this version ships, oldest first: ``0001``, …"""
    return sorted(path.name.partition("_")[0] for path in scripts.glob("versions/[0-9]*.py"))


def ensure_schema(database: Database, *, migrate: bool, scripts: Path | None = None) -> None:
    """Upgrade a fresh or older database, or raise StoreError when it may not or cannot be.

    A database that workers work with is not upgraded: raises OlderSchema, which names one.
    """
    scripts = scripts or bundled("db")
    revisions = shipped_revisions(scripts)
    current = database.read(current_revision)
    if current != revisions[-1]:
        _refuse_unknown(current, revisions)
        if not migrate:
            raise OlderSchema(
                f"the database has schema {current or 'none'}, this lsqctl wants {revisions[-1]}; "
                "open it once for writing to upgrade it"
            )
        upgrade(database, scripts)
    database.schema = revisions[-1]


def upgrade(database: Database, scripts: Path) -> None:
    """Create or upgrade in one transaction; a second process waits and finds it done."""
    revisions = shipped_revisions(scripts)
    with database.translate_errors(), _exclusive(database) as db:
        current = current_revision(db)
        if current == revisions[-1]:
            return  # another process was first
        _refuse_unknown(current, revisions)
        if current is None:
            _create(db, revisions[-1])
            return
        _refuse_while_workers_live(db, current, revisions[-1], database.lease_seconds)
        if database.sqlite:
            _back_up(Path(str(database.url.database)), current)
        run_revisions(db, scripts)
        if database.sqlite and (broken := db.execute(text("PRAGMA foreign_key_check")).all()):
            raise StoreError(f"the upgrade would break {len(broken)} references; nothing was done")


def _refuse_unknown(current: str | None, revisions: list[str]) -> None:
    if current is not None and current not in revisions:
        raise UnusableDatabase(
            f"the database has schema {current}, this lsqctl knows {revisions[-1]} at most; "
            "use the newer lsqctl that wrote it"
        )


def _refuse_while_workers_live(
    db: Connection, current: str, newest: str, lease_seconds: float
) -> None:
    """Raise OlderSchema while a worker of the older version lives: it would fail its runs."""
    row = db.execute(_select_live_workers(db, lease_seconds).limit(1)).one_or_none()
    if row is not None:
        raise OlderSchema(
            f"the database has schema {current}, this lsqctl wants {newest}, and worker {row.name} "
            f"(process {row.pid} on {row.host}) works with it; stop that first (SIGTERM saves its "
            "runs), or go on with the lsqctl that it is of"
        )


def _select_live_workers(db: Connection, lease_seconds: float) -> AnySelect:
    """Select workers heard of within a lease, or with a run whose lease is not over."""
    columns = {entry["name"] for entry in inspect(db).get_columns("workers")}
    renamed = "last_heartbeat_at" in columns  # by revision 0004
    heartbeat = column("last_heartbeat_at" if renamed else "seen_at", UtcDateTime())
    stopped = column("stopped_at" if renamed else "gone_at", UtcDateTime())
    workers = table("workers", *map(column, ("id", "name", "pid", "host")), heartbeat, stopped)
    lease_until = column("lease_until", UtcDateTime())
    runs = table("runs", column("worker_id"), column("state"), lease_until)
    at_work = exists().where(
        runs.c.worker_id == workers.c.id,
        runs.c.state == RunState.RUNNING.value,
        lease_until > now(),
    )
    alive = and_(stopped.is_(None), heartbeat >= now(-lease_seconds))
    return select(workers.c.name, workers.c.pid, workers.c.host).where(or_(alive, at_work))


@contextmanager
def _exclusive(database: Database) -> Iterator[Connection]:
    """Yield a connection in a transaction that no other upgrade runs beside."""
    with database.engine.execution_options(**{WRITE_OPTION: True}).connect() as connection:
        if not database.sqlite:
            _disable_read_timeout(connection)
        else:
            # Within a transaction this is ignored; and with it on, altering `runs` (SQLite copies
            # and drops the table) would delete every metric by CASCADE.
            _pragma(connection, "foreign_keys=OFF")
        try:
            with connection.begin():
                if not database.sqlite:
                    connection.execute(TAKE_EXCLUSIVE_LOCK, {"key": EXCLUSIVE_LOCK_KEY})
                yield connection
        finally:
            if database.sqlite:
                _pragma(connection, "foreign_keys=ON")


def _disable_read_timeout(connection: Connection) -> None:
    """Let an upgrade's statement work for as long as it takes; the connection is not kept."""
    raw = connection.connection.dbapi_connection
    assert raw is not None
    raw.read_timeout = None
    connection.detach()


def _pragma(connection: Connection, setting: str) -> None:
    raw = connection.connection.dbapi_connection
    assert raw is not None
    with closing(raw.cursor()) as cursor:  # not through SQLAlchemy, which would begin first
        cursor.execute(f"PRAGMA {setting}")


def _create(db: Connection, revision: str) -> None:
    """Create every table, and Alembic's own with the revision that they are of."""
    metadata.create_all(db, checkfirst=False)  # somebody else's table of the name is an error
    db.execute(CreateTable(ALEMBIC_VERSION))
    db.execute(ALEMBIC_VERSION.insert(), {"version_num": revision})


def run_revisions(db: Connection, scripts: Path) -> None:
    """Run every revision that the database has not had yet."""
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": db})
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")


def _back_up(path: Path, revision: str) -> None:
    """Copy the database beside itself, readable by its owner only, before it is altered."""
    copy = path.with_name(f"{path.name}.schema-{revision}.bak")
    if copy.exists():
        return
    with half_made(copy) as temporary:
        os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with (
            closing(sqlite3.connect(path)) as source,
            closing(sqlite3.connect(temporary)) as target,
        ):
            source.backup(target)
        temporary.rename(copy)
