"""The rows of finished runs, taken out whole and put whole into another database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from sqlalchemy import Column, Connection, Table, insert, select

from lsqctl.errors import DataError
from lsqctl.failpoint import failpoint
from lsqctl.run import ACTIVE_STATES, JsonObject, RunState
from lsqctl.store.database import StorePart, exclusive_tx, read_tx
from lsqctl.store.dialects import UtcDateTime
from lsqctl.store.rows import batches
from lsqctl.store.soft_delete import OF_A_RUN, RunRows
from lsqctl.store.tables import run_parents, runs, sweep_cells, sweeps, workers
from lsqctl.store.transitions import record_event

# Numbers that each database gives anew.
_LOCAL = {"runs": "seq", "events": "id"}
# Where a run's folder lies on the machine that has it.
_PATHS = {"checkpoints": "directory", "results": "checkpoint_path"}
_LINKS = (run_parents, sweep_cells)
TRANSFERRED = {table.name: table for table in (runs, workers, sweeps, *OF_A_RUN, *_LINKS)}


class Transfer(StorePart):
    """Reading runs to be taken elsewhere, and taking in those that were."""

    @read_tx
    def finished_with_parents(self, db: Connection, run_ids: Sequence[str]) -> list[str]:
        """Return these runs and all that they started from, parents first; finished ones only."""
        found: dict[str, list[str]] = {}
        level = list(run_ids)
        while level:
            parents = select(run_parents).where(run_parents.c.run_id.in_(level))
            for run_id in level:
                found.setdefault(run_id, [])
            for row in db.execute(parents).all():
                found[row.run_id].append(row.parent_id)
            level = sorted({p for run_id in level for p in found[run_id]} - found.keys())
        order = select(runs.c.id).where(runs.c.state.not_in(ACTIVE_STATES)).order_by(runs.c.seq)
        live = order.where(runs.c.removed_at.is_(None))
        return [
            run_id
            for batch in batches(list(found))
            for run_id in db.scalars(live.where(runs.c.id.in_(batch)))
        ]

    @read_tx
    def finished(self, db: Connection) -> list[str]:
        """Return every finished run that is not in the trash, parents first."""
        query = select(runs.c.id).where(
            runs.c.state.not_in(ACTIVE_STATES), runs.c.removed_at.is_(None)
        )
        return list(db.scalars(query.order_by(runs.c.seq)))

    @read_tx
    def rows_of(self, db: Connection, run_id: str) -> RunRows:
        """Return all rows of a run, by table, without what only this database knows of them."""
        rows: dict[str, Sequence[JsonObject]] = {
            table.name: _select(db, table, table.c.run_id == run_id) for table in OF_A_RUN
        }
        rows["runs"] = _select(db, runs, runs.c.id == run_id)
        for table in _LINKS:
            rows[table.name] = _select(db, table, table.c.run_id == run_id)
        names = {row["sweep"] for row in rows["sweep_cells"]}
        rows["sweeps"] = _select(db, sweeps, sweeps.c.name.in_(names))
        ids = {row["worker_id"] for row in (*rows["runs"], *rows["attempts"])} - {None}
        rows["workers"] = _select(db, workers, workers.c.id.in_(ids))
        return rows

    @read_tx
    def compare(self, db: Connection, bundles: Sequence[RunRows]) -> dict[str, str]:
        """Return how each run that is there already stands to what is to be taken in, by id.

        Empty where it is the same run, else what clashes, in words.
        """
        found = {}
        for rows in bundles:
            run = rows["runs"][0]
            here = db.execute(select(runs).where(runs.c.id == run["id"])).one_or_none()
            if here is not None:
                found[run["id"]] = _clash(db, here._asdict(), rows)
        return found

    @exclusive_tx
    def insert(
        self,
        db: Connection,
        bundles: Sequence[RunRows],
        placed: Callable[[Sequence[str]], AbstractContextManager[Mapping[str, Path]]],
        *,
        source: str,
    ) -> Sequence[str]:
        """Add runs with all that belongs to them, all or none; parents first. Return their ids.

        One that another import has added meanwhile is left as it is. ``placed`` puts the folders
        of the others where they belong while nobody else can add runs, says where that is, and
        takes them back on an error; it may be asked more than once. ``source`` is what they are
        from.
        """
        new = {rows["runs"][0]["id"]: rows for rows in bundles}
        new = {run_id: rows for run_id, rows in new.items() if not _exists(db, run_id)}
        with placed(list(new)) as run_dirs:
            for run_id, rows in new.items():
                _insert_bundle(db, rows, run_dirs[run_id])
                record_event(db, run_id, "imported", detail=source)
            failpoint("import.before-commit")
        return list(new)


def _exists(db: Connection, run_id: str) -> bool:
    return db.scalar(select(1).where(runs.c.id == run_id)) is not None


def _select(db: Connection, table: Table, condition: object) -> list[JsonObject]:
    local = _LOCAL.get(table.name)
    columns = [column for column in table.c if column.name != local]
    query = select(*columns).where(condition).order_by(*table.primary_key)  # type: ignore[arg-type]
    return [row._asdict() for row in db.execute(query)]


def _clash(db: Connection, here: JsonObject, rows: RunRows) -> str:
    run = rows["runs"][0]
    if here["run_sha256"] != run["run_sha256"]:
        return f"another run has this id: {here['name']} seed {here['seed']}"
    attempts = TRANSFERRED["attempts"]
    fences = [row["fence"] for row in _select(db, attempts, attempts.c.run_id == run["id"])]
    if (here["state"], fences) != (run["state"], [row["fence"] for row in rows["attempts"]]):
        return f"it went on apart: {here['state']} after {len(fences)} attempts here"
    return "it is in the trash; `lsqctl runs restore` first" if here["removed_at"] else ""


def _insert_bundle(db: Connection, rows: RunRows, run_dir: Path) -> None:
    for table, key in ((workers, "id"), (sweeps, "name")):
        for row in rows[table.name]:
            if db.scalar(select(1).where(table.c[key] == row[key])) is None:
                db.execute(insert(table), dict(row))
    for table in (runs, *OF_A_RUN):
        if rows[table.name]:
            db.execute(insert(table), [_at_home(table, row, run_dir) for row in rows[table.name]])
    for row in rows["run_parents"]:
        if db.scalar(select(1).where(runs.c.id == row["parent_id"])):
            db.execute(insert(run_parents), dict(row))
    for row in rows["sweep_cells"]:
        same = sweep_cells.c.sweep == row["sweep"], sweep_cells.c.run_sha256 == row["run_sha256"]
        if db.scalar(select(1).where(*same)) is None:
            db.execute(insert(sweep_cells), dict(row))


def _at_home(table: Table, row: JsonObject, run_dir: Path) -> JsonObject:
    """Return a row whose path is that of the run's folder here."""
    column = _PATHS.get(table.name)
    if column is None or not row[column]:
        return row
    return row | {column: str(run_dir / Path(row[column]).name)}


def check_rows(run_id: str, rows: RunRows) -> None:
    """Raise DataError, in one line, for rows that are not those of one finished run.

    They may be anybody's: names, types and to whom each belongs are checked.
    """
    if set(rows) != set(TRANSFERRED) or len(rows["runs"]) != 1:
        raise DataError(f"run {run_id}: its tables are not those of a run")
    run = rows["runs"][0]
    for name, table in TRANSFERRED.items():
        for row in rows[name]:
            _check_row(run_id, table, row)
    if run.get("id") != run_id or run["state"] not in set(RunState) - ACTIVE_STATES:
        raise DataError(f"run {run_id}: its row is of another run, or of one that is unfinished")
    if run["removed_at"] is not None or run["lease_until"] is not None:
        raise DataError(f"run {run_id}: its row is of a run that is removed or at work")
    known = {row["id"] for row in rows["workers"]}
    if {row["worker_id"] for row in rows["attempts"]} - known:
        raise DataError(f"run {run_id}: an attempt is of a worker that is not in the file")


def _check_row(run_id: str, table: Table, row: JsonObject) -> None:
    where = f"run {run_id}, table {table.name}"
    local = _LOCAL.get(table.name)
    columns = {column.name: column for column in table.c if column.name != local}
    if unknown := sorted(row.keys() - columns.keys()):
        raise DataError(f"{where}: no column is called `{unknown[0]}`")
    for name, column in columns.items():
        if not _fits(column, row.get(name)) or (name not in row and not column.nullable):
            raise DataError(f"{where}: `{name}` holds what it cannot")
    if "run_id" in columns and row["run_id"] != run_id:
        raise DataError(f"{where}: a row of another run")


def _fits(column: Column[object], value: object) -> bool:
    kind = datetime if isinstance(column.type, UtcDateTime) else column.type.python_type
    if value is None:
        return bool(column.nullable)
    if kind is float:
        return type(value) in (int, float)
    if isinstance(value, datetime):
        return kind is datetime and value.tzinfo is not None
    return type(value) is kind and (kind is not int or abs(int(str(value))) < 1 << 63)
