"""Runs as rows that leave the database and can be put back, all of a run or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, or_, select, update

from lsqctl.errors import IllegalTransition, StoreError
from lsqctl.run import RunState
from lsqctl.store.database import StorePart, exclusive_tx
from lsqctl.store.dependencies import RETRYABLE, state_after_parents
from lsqctl.store.rows import batches
from lsqctl.store.tables import (
    attempts,
    checkpoints,
    events,
    metric_points,
    metric_summaries,
    quantizer_stats,
    results,
    run_parents,
    run_tags,
    runs,
    sweep_cells,
    workers,
)
from lsqctl.store.transitions import record_event, select_for_update, transition

RunRows = Mapping[str, Sequence[Mapping[str, Any]]]  # by the name of a table

_RUN_TABLES = (
    attempts,
    run_tags,
    metric_points,
    metric_summaries,
    quantizer_stats,
    checkpoints,
    results,
    events,
)
_TABLES = {table.name: table for table in (runs, workers, run_parents, sweep_cells, *_RUN_TABLES)}


class Trash(StorePart):
    """Taking runs out, and putting them back."""

    @exclusive_tx
    def remove(
        self,
        db: Connection,
        ids: Sequence[str],
        *,
        force: bool = False,
        keep: Callable[[str, RunRows], None] | None = None,
    ) -> None:
        """Remove runs and all that belongs to them, in one transaction; their files are not ours.

        ``keep`` is given each run's rows before they go, and may be called again should the
        database be busy. Raises IllegalTransition, with nothing removed, for a running run, and
        for one that other runs start from. ``force`` removes it from under those that have
        succeeded: they have what they needed, all others would have nothing to start from.
        Raises NotFound.
        """
        for run_id in ids:
            _check_removable(db, run_id, ids, force=force)
        if keep:
            for run_id in ids:
                keep(run_id, _rows_of(db, run_id))
        for batch in batches(ids):
            db.execute(delete(run_parents).where(run_parents.c.parent_id.in_(batch)))
            db.execute(delete(runs).where(runs.c.id.in_(batch)))

    @exclusive_tx
    def restore(self, db: Connection, removed: Sequence[RunRows]) -> None:
        """Put back what ``remove`` gave to ``keep``, all in one transaction.

        A run is as it was; one that was waiting is queued when what it waited for has succeeded
        by now. Raises IllegalTransition for a run that is there, and for one that cannot start
        because what it starts from is gone or has failed; StoreError for rows of a newer schema.
        """
        for rows in removed:
            _check_schema(rows)
            _insert_run(db, rows)
        for rows in removed:
            _relink(db, rows)
        for rows in removed:
            _requeue_if_ready(db, rows)


def _rows_of(db: Connection, run_id: str) -> dict[str, list[dict[str, Any]]]:
    """Return all that the database has of a run, and the workers that its rows name."""
    rows_by_table = {"runs": _select(db, runs, runs.c.id == run_id)}
    for table in _RUN_TABLES:
        rows_by_table[table.name] = _select(db, table, table.c.run_id == run_id)
    ends = or_(run_parents.c.run_id == run_id, run_parents.c.parent_id == run_id)
    rows_by_table["run_parents"] = _select(db, run_parents, ends)
    rows_by_table["sweep_cells"] = _select(db, sweep_cells, sweep_cells.c.run_id == run_id)
    worker_ids = {
        row["worker_id"] for name in ("runs", "attempts") for row in rows_by_table[name]
    } - {None}
    rows_by_table["workers"] = _select(db, workers, workers.c.id.in_(sorted(worker_ids)))
    return rows_by_table


def _select(db: Connection, table: Table, condition: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in db.execute(select(table).where(condition)).mappings()]


def _check_schema(rows: RunRows) -> None:
    for name, table_rows in rows.items():
        columns = set(_TABLES[name].c.keys()) if name in _TABLES else set()
        for row in table_rows:
            if unknown := sorted(set(row) - columns):
                raise StoreError(f"written by a newer lsqctl: {name} has no {unknown[0]} here")


def _insert_run(db: Connection, rows: RunRows) -> None:
    (run,) = rows["runs"]
    if db.scalar(select(runs.c.id).where(runs.c.id == run["id"])):
        raise IllegalTransition(f"run {run['id']} is there, it was not removed")
    for worker in rows["workers"]:
        if not db.scalar(select(workers.c.id).where(workers.c.id == worker["id"])):
            db.execute(insert(workers), dict(worker))
    taken = db.scalar(select(runs.c.seq).where(runs.c.seq == run["seq"]))
    db.execute(insert(runs), _without("seq", run) if taken else dict(run))
    for table in _RUN_TABLES:
        if table_rows := [
            _without("id", row) if table is events else dict(row) for row in rows[table.name]
        ]:
            db.execute(insert(table), table_rows)


def _without(key: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


def _relink(db: Connection, rows: RunRows) -> None:
    """Tie a run again to those of its parents, children and sweeps that are there."""
    for row in rows["run_parents"]:
        ends = {row["run_id"], row["parent_id"]}
        existing = set(db.scalars(select(runs.c.id).where(runs.c.id.in_(sorted(ends)))))
        same = (run_parents.c.run_id == row["run_id"], run_parents.c.role == row["role"])
        if existing == ends and not db.scalar(select(run_parents.c.role).where(*same)):
            db.execute(insert(run_parents), dict(row))
    for row in rows["sweep_cells"]:
        cell = (sweep_cells.c.sweep == row["sweep"], sweep_cells.c.run_sha256 == row["run_sha256"])
        free = sweep_cells.c.run_id.is_(None)
        db.execute(update(sweep_cells).where(*cell, free).values(run_id=row["run_id"]))


def _requeue_if_ready(db: Connection, rows: RunRows) -> None:
    """Write that a run is back; look first whether one that has yet to start still can."""
    (run,) = rows["runs"]
    run_id, state = run["id"], RunState(run["state"])
    record_event(db, run_id, "restored")
    if state not in (RunState.WAITING, RunState.QUEUED):
        return
    parent_ids = [row["parent_id"] for row in rows["run_parents"] if row["run_id"] == run_id]
    query = select(runs.c.id, runs.c.state).where(runs.c.id.in_(parent_ids))
    state_by_parent = {row.id: row.state for row in db.execute(query)}
    for parent in parent_ids:
        if parent not in state_by_parent or state_by_parent[parent] in RETRYABLE:
            raise IllegalTransition(
                f"run {run_id} is to start from {parent}, which is gone or has failed: restore "
                f"or retry {parent} first"
            )
    new_state = state_after_parents(list(state_by_parent.values()))
    if new_state is not state:
        transition(db, run_id, state, new_state, "queued", detail="its parents have succeeded")


def _check_removable(db: Connection, run_id: str, ids: Sequence[str], *, force: bool) -> None:
    """Raise IllegalTransition for a run that cannot go together with ``ids``; NotFound."""
    if select_for_update(db, run_id).state == RunState.RUNNING:
        raise IllegalTransition(f"run {run_id} is running; `lsqctl runs cancel {run_id}` first")
    _check_children(db, run_id, ids, force=force)


def _check_children(db: Connection, run_id: str, ids: Sequence[str], *, force: bool) -> None:
    query = (
        select(runs.c.id, runs.c.name, runs.c.state)
        .join(run_parents, run_parents.c.run_id == runs.c.id)
        .where(run_parents.c.parent_id == run_id)
        .distinct()
    )
    children = [row for row in db.execute(query) if row.id not in ids]
    if not_succeeded := [row for row in children if row.state != RunState.SUCCEEDED]:
        raise IllegalTransition(
            f"run {run_id} is what {_name_some(not_succeeded)} would start from; "
            "remove those with it"
        )
    if children and not force:
        raise IllegalTransition(
            f"run {run_id} is what {_name_some(children)} started from; --force removes it anyway"
        )


def _name_some(rows: Sequence[Any]) -> str:
    shown = ", ".join(f"{row.name} ({row.id})" for row in rows[:3])
    return shown + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
