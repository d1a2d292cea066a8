"""Is the database whole?  Every problem in one sentence; an empty list means that it is."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, or_, select, text

from lsqctl.run import RunState
from lsqctl.store.base import StorePart
from lsqctl.store.columns import now
from lsqctl.store.database import read_tx
from lsqctl.store.family import started_before_parents, blocked_without_parent
from lsqctl.store.histories import load_histories
from lsqctl.store.history import violations
from lsqctl.store.migrate import current_revision
from lsqctl.store.tables import metadata, runs


class IntegrityChecks(StorePart):
    """Looking for damage."""

    @read_tx
    def schema_version(self, db: Connection) -> str:
        """Return the schema's revision, as ``0001``."""
        return current_revision(db) or ""

    @read_tx
    def check(self, db: Connection) -> list[str]:
        """Return what is wrong with the file, the schema, or the runs in it."""
        if db.dialect.name == "postgresql":  # one moment for all queries; SQLite has that anyway
            db.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        parts = _file_problems(db), _schema_problems(db), _run_problems(db), _history_problems(db)
        return [problem for part in parts for problem in part]


def _file_problems(db: Connection) -> Iterator[str]:
    if db.dialect.name != "sqlite":
        return
    for line in db.scalars(text("PRAGMA integrity_check")):
        if line != "ok":
            yield f"the file is damaged: {line}"
    for row in db.execute(text("PRAGMA foreign_key_check")):
        yield f"a row of {row[0]} refers to one of {row[2]} that is not there"


def _schema_problems(db: Connection) -> Iterator[str]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(db, opts={"compare_type": True})
    for difference in compare_metadata(context, metadata):
        yield f"the schema differs: {difference}"


def _run_problems(db: Connection) -> Iterator[str]:
    owner = runs.c.fence, runs.c.worker_id, runs.c.lease_until
    query = select(runs.c.id, runs.c.lease_until).where(runs.c.state == RunState.RUNNING)
    for row in db.execute(query.where(or_(*(column.is_(None) for column in owner)))):
        yield f"run {row.id} is running, but nobody owns it"
    for row in db.execute(query.where(runs.c.lease_until < now())):
        yield f"run {row.id} is running, but its lease ended at {row.lease_until}: start a worker"
    for run_id in blocked_without_parent(db):
        yield f"run {run_id} waits, but none of its parents is unfinished: retry it"
    for run_id in started_before_parents(db):
        yield f"run {run_id} does not wait, but a parent of it has not succeeded"


def _history_problems(db: Connection) -> Iterator[str]:
    for history in load_histories(db):
        yield from violations(history)
