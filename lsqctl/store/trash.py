"""Runs as rows that leave the database and can be put back, all of a run or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, or_, select, update

from lsqctl.errors import IllegalTransition, StoreError
from lsqctl.run import RunState
from lsqctl.store.base import Base
from lsqctl.store.database import reshapes
from lsqctl.store.family import DEAD, state_after_parents
from lsqctl.store.housekeeping import check_removable
from lsqctl.store.rows import chunks
from lsqctl.store.states import move, record
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

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # by the name of a table

_OF_A_RUN = (
    attempts,
    run_tags,
    metric_points,
    metric_summaries,
    quantizer_stats,
    checkpoints,
    results,
    events,
)
_KNOWN = {table.name: table for table in (runs, workers, run_parents, sweep_cells, *_OF_A_RUN)}


class Trash(Base):
    """Taking runs out, and putting them back."""

    @reshapes
    def remove(
        self,
        db: Connection,
        ids: Sequence[str],
        *,
        force: bool = False,
        keep: Callable[[str, Rows], None] | None = None,
    ) -> None:
        """Remove runs and all that belongs to them, in one transaction; their files are not ours.

        ``keep`` is given each run's rows before they go, and may be called again should the
        database be busy. Raises IllegalTransition, with nothing removed, for a running run, and
        for one that other runs start from. ``force`` removes it from under those that have
        succeeded: they have what they needed, all others would have nothing to start from.
        Raises NotFound.
        """
        for run_id in ids:
            check_removable(db, run_id, ids, force=force)
        if keep:
            for run_id in ids:
                keep(run_id, _rows_of(db, run_id))
        for some in chunks(ids):
            db.execute(delete(run_parents).where(run_parents.c.parent_id.in_(some)))
            db.execute(delete(runs).where(runs.c.id.in_(some)))

    @reshapes
    def restore(self, db: Connection, many: Sequence[Rows]) -> None:
        """Put back what ``remove`` gave to ``keep``, all in one transaction.

        A run is as it was; one that was waiting is queued when what it waited for has succeeded
        by now. Raises IllegalTransition for a run that is there, and for one that cannot start
        because what it starts from is gone or has failed; StoreError for rows of a newer schema.
        """
        for rows in many:
            _check_known(rows)
            _insert_run(db, rows)
        for rows in many:
            _link(db, rows)
        for rows in many:
            _settle(db, rows)


def _rows_of(db: Connection, run_id: str) -> dict[str, list[dict[str, Any]]]:
    """Return all that the database has of a run, and the workers that its rows name."""
    found = {"runs": _select(db, runs, runs.c.id == run_id)}
    for table in _OF_A_RUN:
        found[table.name] = _select(db, table, table.c.run_id == run_id)
    ends = or_(run_parents.c.run_id == run_id, run_parents.c.parent_id == run_id)
    found["run_parents"] = _select(db, run_parents, ends)
    found["sweep_cells"] = _select(db, sweep_cells, sweep_cells.c.run_id == run_id)
    named = {row["worker_id"] for name in ("runs", "attempts") for row in found[name]} - {None}
    found["workers"] = _select(db, workers, workers.c.id.in_(sorted(named)))
    return found


def _select(db: Connection, table: Table, wanted: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in db.execute(select(table).where(wanted)).mappings()]


def _check_known(rows: Rows) -> None:
    for name, some in rows.items():
        known = set(_KNOWN[name].c.keys()) if name in _KNOWN else set()
        for row in some:
            if more := sorted(set(row) - known):
                raise StoreError(f"written by a newer lsqctl: {name} has no {more[0]} here")


def _insert_run(db: Connection, rows: Rows) -> None:
    (run,) = rows["runs"]
    if db.scalar(select(runs.c.id).where(runs.c.id == run["id"])):
        raise IllegalTransition(f"run {run['id']} is there, it was not removed")
    for worker in rows["workers"]:
        if not db.scalar(select(workers.c.id).where(workers.c.id == worker["id"])):
            db.execute(insert(workers), dict(worker))
    taken = db.scalar(select(runs.c.seq).where(runs.c.seq == run["seq"]))
    db.execute(insert(runs), _without("seq", run) if taken else dict(run))
    for table in _OF_A_RUN:
        if some := [
            _without("id", row) if table is events else dict(row) for row in rows[table.name]
        ]:
            db.execute(insert(table), some)


def _without(key: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


def _link(db: Connection, rows: Rows) -> None:
    """Tie a run again to those of its parents, children and sweeps that are there."""
    for row in rows["run_parents"]:
        ends = {row["run_id"], row["parent_id"]}
        there = set(db.scalars(select(runs.c.id).where(runs.c.id.in_(sorted(ends)))))
        same = (run_parents.c.run_id == row["run_id"], run_parents.c.role == row["role"])
        if there == ends and not db.scalar(select(run_parents.c.role).where(*same)):
            db.execute(insert(run_parents), dict(row))
    for row in rows["sweep_cells"]:
        cell = (sweep_cells.c.sweep == row["sweep"], sweep_cells.c.run_sha256 == row["run_sha256"])
        free = sweep_cells.c.run_id.is_(None)
        db.execute(update(sweep_cells).where(*cell, free).values(run_id=row["run_id"]))


def _settle(db: Connection, rows: Rows) -> None:
    """Write that a run is back; look first whether one that has yet to start still can."""
    (run,) = rows["runs"]
    run_id, state = run["id"], RunState(run["state"])
    record(db, run_id, "restored")
    if state not in (RunState.WAITING, RunState.QUEUED):
        return
    wanted = [row["parent_id"] for row in rows["run_parents"] if row["run_id"] == run_id]
    query = select(runs.c.id, runs.c.state).where(runs.c.id.in_(wanted))
    found = {row.id: row.state for row in db.execute(query)}
    for parent in wanted:
        if parent not in found or found[parent] in DEAD:
            raise IllegalTransition(
                f"run {run_id} is to start from {parent}, which is gone or has failed: restore "
                f"or retry {parent} first"
            )
    now_in = state_after_parents(list(found.values()))
    if now_in is not state:
        move(db, run_id, state, now_in, "queued", detail="its parents have succeeded")
