"""Is the database whole, and a copy of it that is: integrity check and online backup."""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, FromClause, case, func, or_, select, text

from lsqctl.atomic_write import check_overwrite, half_made, inode_hint
from lsqctl.errors import StoreError, UsageError
from lsqctl.run import EndReason, RunState
from lsqctl.store.audit import AttemptRow, History, MeasurementSpan, violations
from lsqctl.store.database import StorePart, current_revision, read_tx
from lsqctl.store.dependencies import blocked_without_parent, started_before_parents
from lsqctl.store.dialects import now
from lsqctl.store.rows import to_event
from lsqctl.store.tables import (
    AnyRow,
    AnySelect,
    attempts,
    checkpoints,
    events,
    live_runs,
    metadata,
    metric_points,
    quantizer_stats,
    results,
    runs,
)


def load_histories(db: Connection) -> Iterator[History]:
    """Yield every run's history, the oldest run first."""
    events_by_run = _by_run(db, select(events).order_by(events.c.id))
    attempts_by_run = _by_run(db, select(*_ATTEMPT_COLUMNS).order_by(attempts.c.number))
    spans_by_kind = {
        kind: _by_run(db, _select_last_steps(table)) for kind, table in _MEASUREMENT_TABLES.items()
    }
    counts = _by_run(db, _select_result_counts())
    for row in db.execute(select(*_RUN_COLUMNS).order_by(runs.c.seq)):
        result_counts = counts[row.id][0] if row.id in counts else None
        yield History(
            run_id=row.id,
            state=RunState(row.state),
            reason=EndReason(row.reason) if row.reason else None,
            attempt=row.attempt,
            fence=row.fence,
            leased=row.lease_until is not None,
            events=[to_event(entry) for entry in events_by_run[row.id]],
            attempts=[_to_attempt_row(entry) for entry in attempts_by_run[row.id]],
            measurements=[
                MeasurementSpan(kind, entry.fence, entry.last_step)
                for kind, rows_by_run in spans_by_kind.items()
                for entry in rows_by_run[row.id]
            ],
            results=result_counts.results if result_counts else 0,
            headlines=result_counts.headlines if result_counts else 0,
        )


_MEASUREMENT_TABLES = {
    "metrics": metric_points,
    "quantizers' numbers": quantizer_stats,
    "checkpoints": checkpoints,
}
_RUN_COLUMNS = [runs.c[name] for name in "id state reason attempt fence lease_until".split()]
_ATTEMPT_COLUMNS = [
    attempts.c[name] for name in "run_id number fence finished_at reason resumed_step".split()
]


def _by_run(db: Connection, query: AnySelect) -> defaultdict[str, list[AnyRow]]:
    rows_by_run: defaultdict[str, list[AnyRow]] = defaultdict(list)
    for row in db.execute(query):
        rows_by_run[row.run_id].append(row)
    return rows_by_run


def _select_last_steps(table: FromClause) -> AnySelect:
    last = func.max(table.c.step).label("last_step")
    return select(table.c.run_id, table.c.fence, last).group_by(table.c.run_id, table.c.fence)


def _select_result_counts() -> AnySelect:
    headlines = func.sum(case((results.c.headline, 1), else_=0)).label("headlines")
    total = func.count().label("results")
    return select(results.c.run_id, total, headlines).group_by(results.c.run_id)


def _to_attempt_row(row: AnyRow) -> AttemptRow:
    return AttemptRow(
        number=row.number,
        fence=row.fence,
        finished=row.finished_at is not None,
        reason=EndReason(row.reason) if row.reason else None,
        resumed_step=-1 if row.resumed_step is None else row.resumed_step,
    )


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy that was made and found sound."""

    path: Path
    size_bytes: int
    runs: int
    schema: str


class Maintenance(StorePart):
    """The database as a file and a schema: checked, copied, its clock compared."""

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

    @read_tx
    def clock_skew(self, db: Connection) -> timedelta:
        """Return how far the database's clock is ahead of this machine's."""
        before = datetime.now(UTC)
        database_time: datetime = db.execute(select(now())).scalar_one()
        return database_time - (before + (datetime.now(UTC) - before) / 2)

    def backup(self, path: Path, *, force: bool = False) -> Backup:
        """Copy the database to ``path``, which only its owner can read; its folder is made.

        SQLite's online backup holds one read lock for the whole copy: it is one moment, and
        writers wait for it. Raises UsageError for PostgreSQL, with the command that does it, for
        a link, and for a file that exists when ``force`` is not given; StoreError when the copy
        cannot be made or is not sound, with nothing left behind.
        """
        if not self._database.sqlite:
            raise UsageError(f"PostgreSQL has its own tool: {self._pg_dump(path)}")
        source = Path(str(self._database.url.database))
        if path.exists() and not path.is_symlink() and path.samefile(source):
            raise UsageError(f"{path} is the database itself; name another path")
        check_overwrite(path, force=force)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with half_made(path) as temporary:
                os.close(os.open(temporary, flags, 0o600))
                runs_and_schema = _copy_and_check(source, temporary)
                _publish_copy(temporary, path, force=force)
        except FileExistsError:
            raise UsageError(f"{path} exists; --force overwrites it") from None
        except OSError as error:
            reason = f"{error.strerror}{inode_hint(error, path)}"
            raise StoreError(f"cannot write {path}: {reason}") from None
        except sqlite3.Error as error:
            raise StoreError(f"cannot copy {source} to {path}: {error}") from None
        return Backup(path, path.stat().st_size, *runs_and_schema)

    def _pg_dump(self, path: Path) -> str:
        """Return the command line, without a password: that comes from ~/.pgpass."""
        url = self._database.url
        query = {key: value for key, value in url.query.items() if "password" not in key}
        shown = url.set(drivername="postgresql", password=None, query=query)
        return f"pg_dump --format=custom --file={path} '{shown.render_as_string()}'"


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
    owner = live_runs.c.fence, live_runs.c.worker_id, live_runs.c.lease_until
    query = select(live_runs.c.id, live_runs.c.lease_until).where(
        live_runs.c.state == RunState.RUNNING
    )
    for row in db.execute(query.where(or_(*(column.is_(None) for column in owner)))):
        yield f"run {row.id} is running, but nobody owns it"
    for row in db.execute(query.where(live_runs.c.lease_until < now())):
        yield f"run {row.id} is running, but its lease ended at {row.lease_until}: start a worker"
    for run_id in blocked_without_parent(db):
        yield f"run {run_id} waits, but none of its parents is unfinished: retry it"
    for run_id in started_before_parents(db):
        yield f"run {run_id} does not wait, but a parent of it has not succeeded"


def _history_problems(db: Connection) -> Iterator[str]:
    for history in load_histories(db):
        yield from violations(history)


def _copy_and_check(source: Path, target: Path) -> tuple[int, str]:
    """Copy, check, sync; return how many runs the copy has, and its schema."""
    address = f"{source.absolute().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(address, uri=True, timeout=60)) as original,
        closing(sqlite3.connect(target)) as copy,
    ):
        original.backup(copy)
        integrity_errors = [row[0] for row in copy.execute("PRAGMA integrity_check")]
        broken = copy.execute("PRAGMA foreign_key_check").fetchall()
        if integrity_errors != ["ok"] or broken:
            first_error = (
                integrity_errors[0]
                if integrity_errors != ["ok"]
                else f"{len(broken)} broken references"
            )
            raise StoreError(
                f"the copy of {source} is not sound ({first_error}); see lsqctl db check"
            )
        (run_count,) = copy.execute("SELECT count(*) FROM runs WHERE removed_at IS NULL").fetchone()
        (schema,) = copy.execute("SELECT version_num FROM alembic_version").fetchone()
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return run_count, schema


def _publish_copy(temporary: Path, path: Path, *, force: bool) -> None:
    if force:
        temporary.replace(path)
    else:
        os.link(temporary, path)  # fails where another has made the file in the meantime
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)
