"""Runs in the trash: their rows stay, with ``removed_at``, until they are restored or purged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, FromClause, Table, delete, insert, select, update

from lsqctl.errors import IllegalTransition, NotFound
from lsqctl.run import JsonObject, RunState
from lsqctl.store.database import StorePart, exclusive_tx, read_tx
from lsqctl.store.dependencies import RETRYABLE, state_after_parents
from lsqctl.store.dialects import now
from lsqctl.store.rows import batches
from lsqctl.store.tables import AnyRow, live_runs, metadata, run_parents, runs, sweep_cells, workers
from lsqctl.store.transitions import record_event, transition

RunRows = Mapping[str, Sequence[JsonObject]]  # by the name of a table


@dataclass(frozen=True, slots=True)
class RemovedRun:
    """A run in the trash."""

    id: str
    name: str
    seed: int
    state: RunState
    removed_at: datetime


class Trash(StorePart):
    """Taking runs out, putting them back, and deleting them for good."""

    @read_tx
    def list(self, db: Connection, *, older_than: float = 0.0) -> Sequence[RemovedRun]:
        """Return the runs removed at least ``older_than`` seconds ago, the newest first."""
        columns = runs.c
        query = select(columns.id, columns.name, columns.seed, columns.state, columns.removed_at)
        query = query.where(columns.removed_at <= now(-older_than))
        return [
            RemovedRun(row.id, row.name, row.seed, RunState(row.state), row.removed_at)
            for row in db.execute(query.order_by(columns.removed_at.desc(), columns.id.desc()))
        ]

    @read_tx
    def check_removable(
        self, db: Connection, ids: Sequence[str], *, for_good: bool = False, force: bool = False
    ) -> None:
        """Raise what ``remove`` would, or ``purge`` where it is ``for_good``; change nothing."""
        for run_id in ids:
            _check_removable(db, run_id, ids, runs if for_good else live_runs, force=force)

    @exclusive_tx
    def remove(self, db: Connection, ids: Sequence[str], *, force: bool = False) -> None:
        """Take runs out, all or none: nothing but the trash shows them; their files are not ours.

        Raises IllegalTransition for a running run, and for one that other runs start from.
        ``force`` removes it from under those that have succeeded: they have what they needed, all
        others would have nothing to start from. Raises NotFound.
        """
        for run_id in ids:
            _check_removable(db, run_id, ids, live_runs, force=force)
        for batch in batches(ids):
            db.execute(update(runs).where(runs.c.id.in_(batch)).values(removed_at=now()))

    @exclusive_tx
    def purge(self, db: Connection, ids: Sequence[str], *, force: bool = False) -> None:
        """Delete runs and all that belongs to them for good, live or in the trash: all or none.

        Raises what ``remove`` does; children in the trash count, for they may come back.
        """
        for run_id in ids:
            _check_removable(db, run_id, ids, runs, force=force)
        for batch in batches(ids):
            db.execute(delete(run_parents).where(run_parents.c.parent_id.in_(batch)))
            db.execute(delete(runs).where(runs.c.id.in_(batch)))

    @exclusive_tx
    def restore(self, db: Connection, ids: Sequence[str]) -> None:
        """Put runs back from the trash as they were, all or none.

        One that was waiting is queued when what it waited for has succeeded by now. Raises
        NotFound for a run that is not in the trash, and IllegalTransition for one that cannot
        start because what it starts from is gone or has failed.
        """
        for run_id in ids:
            in_trash = runs.c.id == run_id, runs.c.removed_at.is_not(None)
            if db.execute(update(runs).where(*in_trash).values(removed_at=None)).rowcount == 0:
                raise NotFound(f"no run in the trash has the id {run_id}")
        for run_id in ids:
            _requeue_if_ready(db, run_id)

    @exclusive_tx
    def adopt(self, db: Connection, removed: Sequence[tuple[RunRows, datetime]]) -> None:
        """Take in rows that an older lsqctl kept in files, each with the time of its removal.

        A run that is there already is left alone.
        """
        new = [(rows, at) for rows, at in removed if not _exists(db, runs, rows["runs"][0]["id"])]
        for rows, removed_at in new:
            _insert_run(db, rows, removed_at)
        for rows, _ in new:
            _relink(db, rows)


def _check_removable(
    db: Connection, run_id: str, ids: Sequence[str], among: FromClause, *, force: bool
) -> None:
    """Raise IllegalTransition for a run that cannot go together with ``ids``; NotFound.

    ``among`` are the runs that count as its children.
    """
    query = select(among.c.state).where(among.c.id == run_id)
    state = db.scalar(query.with_for_update(key_share=True))  # no worker may claim it meanwhile
    if state is None:
        raise NotFound(f"no run has the id {run_id}")
    if state == RunState.RUNNING:
        raise IllegalTransition(f"run {run_id} is running; `lsqctl runs cancel {run_id}` first")
    children = [row for row in _children(db, run_id, among) if row.id not in ids]
    if not_succeeded := [row for row in children if row.state != RunState.SUCCEEDED]:
        raise IllegalTransition(
            f"run {run_id} is what {_name_some(not_succeeded)} would start from; "
            "remove those with it"
        )
    if children and not force:
        raise IllegalTransition(
            f"run {run_id} is what {_name_some(children)} started from; --force removes it anyway"
        )


def _children(db: Connection, run_id: str, among: FromClause) -> Sequence[AnyRow]:
    query = (
        select(among.c.id, among.c.name, among.c.state)
        .join(run_parents, run_parents.c.run_id == among.c.id)
        .where(run_parents.c.parent_id == run_id)
        .distinct()
    )
    return db.execute(query).all()


def _name_some(rows: Sequence[AnyRow]) -> str:
    shown = ", ".join(f"{row.name} ({row.id})" for row in rows[:3])
    return shown + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")


def _requeue_if_ready(db: Connection, run_id: str) -> None:
    """Write that a run is back; check first whether one that has yet to start still can."""
    record_event(db, run_id, "restored")
    state = RunState(db.execute(select(runs.c.state).where(runs.c.id == run_id)).scalar_one())
    if state not in (RunState.WAITING, RunState.QUEUED):
        return
    query = (
        select(run_parents.c.parent_id, live_runs.c.state)
        .outerjoin(live_runs, live_runs.c.id == run_parents.c.parent_id)
        .where(run_parents.c.run_id == run_id)
    )
    states = {row.parent_id: row.state for row in db.execute(query)}
    for parent, parent_state in states.items():
        if parent_state is None or parent_state in RETRYABLE:
            raise IllegalTransition(
                f"run {run_id} is to start from {parent}, which is gone or has failed: restore "
                f"or retry {parent} first"
            )
    new_state = state_after_parents(list(states.values()))
    if new_state is not state:
        transition(db, run_id, state, new_state, "queued", detail="its parents have succeeded")


# What schemas up to 0003 called the columns; their priority was kept negated.
_OLD_NAMES: Mapping[str, Mapping[str, str]] = {
    "runs": {
        "snapshot": "provenance",
        "circumstances": "pinned_environment",
        "urgency": "priority",
        "failures": "consecutive_failures",
        "checkpoint_step": "max_checkpoint_step",
    },
    "attempts": {"circumstances": "environment", "progressed": "moved_checkpoint"},
    "workers": {
        "started": "process_started",
        "seen_at": "last_heartbeat_at",
        "gone_at": "stopped_at",
    },
}
OF_A_RUN = [
    table
    for table in metadata.sorted_tables
    if "run_id" in table.c and table not in (run_parents, sweep_cells)
]


def _insert_run(db: Connection, rows: RunRows, removed_at: datetime) -> None:
    for worker in rows["workers"]:
        if not _exists(db, workers, worker["id"]):
            db.execute(insert(workers), _renamed("workers", worker))
    run = _renamed("runs", rows["runs"][0])
    run |= {"priority": -run["priority"], "removed_at": removed_at}
    if db.scalar(select(runs.c.seq).where(runs.c.seq == run["seq"])):
        del run["seq"]
    db.execute(insert(runs), run)
    for table in OF_A_RUN:
        values = [_renamed(table.name, row) for row in rows[table.name]]
        if table.name == "events":
            values = [{key: value for key, value in row.items() if key != "id"} for row in values]
        if values:
            db.execute(insert(table), values)


def _renamed(table: str, row: JsonObject) -> JsonObject:
    names = _OLD_NAMES.get(table, {})
    reason = {"reason": "worker_lost"} if row.get("reason") == "lost" else {}
    return {names.get(key, key): value for key, value in row.items()} | reason


def _exists(db: Connection, table: Table, row_id: str) -> bool:
    return db.scalar(select(1).where(table.c.id == row_id)) is not None


def _relink(db: Connection, rows: RunRows) -> None:
    """Tie a run again to those of its parents, children and sweeps that are there."""
    for row in rows["run_parents"]:
        same = run_parents.c.run_id == row["run_id"], run_parents.c.role == row["role"]
        ends = _exists(db, runs, row["run_id"]) and _exists(db, runs, row["parent_id"])
        if ends and db.scalar(select(1).where(*same)) is None:
            db.execute(insert(run_parents), dict(row))
    for row in rows["sweep_cells"]:
        cell = sweep_cells.c.sweep == row["sweep"], sweep_cells.c.run_sha256 == row["run_sha256"]
        free = sweep_cells.c.run_id.is_(None)
        db.execute(update(sweep_cells).where(*cell, free).values(run_id=row["run_id"]))
