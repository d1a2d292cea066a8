"""Look at runs, sweeps and events.  Nothing here writes, and no list touches a metric point."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select

from lsqctl.errors import NotFound
from lsqctl.filters.names import OF_RUNS
from lsqctl.filters.tree import Node
from lsqctl.run import ACTIVE_STATES, Attempt, EndReason, RunEvent, Run, RunDetail, RunState
from lsqctl.store.base import StorePart
from lsqctl.store.columns import from_json, now
from lsqctl.store.database import read_tx
from lsqctl.store.enqueue import canonical_run
from lsqctl.store.family import Remaining, remaining
from lsqctl.store.filtering import RUN_COLUMNS, condition
from lsqctl.store.rows import load_parents, load_runs, select_runs, to_event, to_run
from lsqctl.store.tables import attempts, events, run_tags, runs, sweep_cells


class Runs(StorePart):
    """Lists and details."""

    @read_tx
    def runs(
        self,
        db: Connection,
        *,
        states: Collection[RunState] | None = None,
        limit: int | None = None,
        sweep: str | None = None,
        name: str | None = None,
        tag: str | None = None,
        where: Node | None = None,
    ) -> list[Run]:
        """Return runs, newest first; each argument narrows them."""
        conditions: list[ColumnElement[bool]] = []
        if states is not None:
            conditions.append(runs.c.state.in_(states))
        if sweep is not None:
            cells = select(sweep_cells.c.run_id).where(sweep_cells.c.sweep == sweep)
            conditions.append(runs.c.id.in_(cells))
        if name is not None:
            conditions.append(runs.c.name == name)
        if tag is not None:
            conditions.append(runs.c.id.in_(select(run_tags.c.run_id).where(run_tags.c.tag == tag)))
        if where is not None:
            conditions.append(condition(where, RUN_COLUMNS, OF_RUNS, db.dialect.name))
        return _list_runs(db, *conditions, limit=limit)

    @read_tx
    def detail(self, db: Connection, run_id: str) -> RunDetail:
        """Return all that is known of a run.  Raises NotFound."""
        loaded = load_runs(db, [run_id])
        if not loaded:
            raise NotFound(f"no run has the id {run_id}")
        json_row = db.execute(select(runs.c.recipe, runs.c.snapshot).where(runs.c.id == run_id)).one()
        attempts_query = select(attempts).where(attempts.c.run_id == run_id).order_by(attempts.c.number)
        return RunDetail(
            run=loaded[run_id],
            recipe=from_json(json_row.recipe),
            provenance=from_json(json_row.snapshot),
            parents=load_parents(db, run_id),
            attempts=tuple(_to_attempt(row) for row in db.execute(attempts_query)),
        )

    @read_tx
    def find(self, db: Connection, run_sha256: str) -> Run | None:
        """Return a hash's canonical run: succeeded, else unfinished, else the newest."""
        row = canonical_run(db, run_sha256)
        return load_runs(db, [row.id])[row.id] if row else None

    @read_tx
    def by_recipe(self, db: Connection, recipe_sha256: str) -> list[Run]:
        """Return the runs of one recipe, whatever their seed, newest first."""
        return _list_runs(db, runs.c.recipe_sha256 == recipe_sha256)

    @read_tx
    def by_name(self, db: Connection, name: str) -> list[Run]:
        """Return the runs of one name, newest first."""
        return _list_runs(db, runs.c.name == name)

    @read_tx
    def events(self, db: Connection, run_id: str) -> list[RunEvent]:
        """Return a run's history, oldest first."""
        query = select(events).where(events.c.run_id == run_id).order_by(events.c.id)
        return [to_event(row) for row in db.execute(query)]

    @read_tx
    def counts(self, db: Connection) -> dict[RunState, int]:
        """Return how many runs are in each state, zeros included."""
        query = select(runs.c.state, func.count().label("n")).group_by(runs.c.state)
        count_by_state = {RunState(row.state): int(row.n) for row in db.execute(query)}
        return {state: count_by_state.get(state, 0) for state in RunState}

    def unfinished(self) -> int:
        """Return how many runs are waiting, queued or running."""
        counts = self.counts()
        return sum(counts[state] for state in ACTIVE_STATES)

    @read_tx
    def remaining(self, db: Connection) -> Remaining:
        """Return how many runs are unfinished, and which of them cannot start by themselves."""
        return remaining(db)

    @read_tx
    def clock_skew(self, db: Connection) -> timedelta:
        """Return how far the database's clock is ahead of this machine's."""
        before = datetime.now(UTC)
        database_time: datetime = db.execute(select(now())).scalar_one()
        return database_time - (before + (datetime.now(UTC) - before) / 2)


def _list_runs(db: Connection, *conditions: ColumnElement[bool], limit: int | None = None) -> list[Run]:
    query = select_runs().where(*conditions).order_by(runs.c.seq.desc()).limit(limit)
    return [to_run(row) for row in db.execute(query)]


def _to_attempt(row: Row[Any]) -> Attempt:
    return Attempt(
        run_id=row.run_id,
        number=row.number,
        fence=row.fence,
        worker=row.worker_id,
        started_at=row.started_at,
        finished_at=row.finished_at,
        reason=EndReason(row.reason) if row.reason else None,
        message=row.message,
        environment=from_json(row.circumstances),
        resumed_step=row.resumed_step,
    )
