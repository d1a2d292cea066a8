"""Runs as a person sees them: lists, details, statuses; cancel, retry, hold, priority."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select, update

from lsqctl.errors import IllegalTransition, NotFound, UsageError, did_you_mean
from lsqctl.filters.names import OF_RUNS
from lsqctl.filters.tree import Node
from lsqctl.run import ACTIVE_STATES, Attempt, EndReason, Run, RunDetail, RunEvent, RunState
from lsqctl.store.database import StorePart, exclusive_tx, read_tx
from lsqctl.store.dependencies import (
    RETRYABLE,
    Remaining,
    fail_children,
    raise_parent_priority,
    remaining,
    requeue,
)
from lsqctl.store.dialects import from_json, now
from lsqctl.store.enqueue import canonical_run
from lsqctl.store.filter_sql import RUN_COLUMNS, condition
from lsqctl.store.queue_overview import select_sweep_run_ids
from lsqctl.store.rows import batches, load_parents, load_runs, select_runs, to_event, to_run
from lsqctl.store.tables import attempts, events, run_tags, runs, sweep_cells
from lsqctl.store.transitions import record_event, select_for_update, transition


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
        json_row = db.execute(
            select(runs.c.recipe, runs.c.snapshot).where(runs.c.id == run_id)
        ).one()
        attempts_query = (
            select(attempts).where(attempts.c.run_id == run_id).order_by(attempts.c.number)
        )
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


def _list_runs(
    db: Connection, *conditions: ColumnElement[bool], limit: int | None = None
) -> list[Run]:
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


_LAST_PATTERN = re.compile(r"@last(?:~(\d{1,9}))?")
_MAX_SHOWN = 5


class RunRefs(StorePart):
    """Resolving references."""

    @read_tx
    def resolve(self, db: Connection, run_ref: str) -> Run:
        """Return the run of a full id, an exact name (its newest run), a unique prefix of an id,
        ``@last``, or ``@last~N`` (N before it).

        Raises NotFound, naming what is near, and UsageError for a prefix of several ids.
        """
        if match := _LAST_PATTERN.fullmatch(run_ref):
            return _last(db, run_ref, int(match[1] or 0))
        newest = select_runs().order_by(runs.c.seq.desc())
        for exact in (runs.c.id == run_ref.lower(), runs.c.name == run_ref):
            if row := db.execute(newest.where(exact).limit(1)).one_or_none():
                return to_run(row)
        start = runs.c.id.startswith(run_ref.lower(), autoescape=True)
        matches = db.execute(newest.where(start).limit(_MAX_SHOWN + 1)).all() if run_ref else []
        if not matches:
            raise NotFound(
                f"no run is `{run_ref}`{did_you_mean(run_ref, _recent_ids_and_names(db))}"
            )
        if len(matches) > 1:
            shown = ", ".join(f"{row.id} ({row.name})" for row in matches[:_MAX_SHOWN])
            more = ", …" if len(matches) > _MAX_SHOWN else ""
            raise UsageError(f"`{run_ref}` begins several run ids: {shown}{more}; write more of it")
        return to_run(matches[0])


def _last(db: Connection, run_ref: str, back: int) -> Run:
    row = db.execute(select_runs().order_by(runs.c.seq.desc()).offset(back).limit(1)).one_or_none()
    if row is None:
        raise NotFound(f"no run is `{run_ref}`: there are not so many runs yet")
    return to_run(row)


def _recent_ids_and_names(db: Connection) -> set[str]:
    recent = select(runs.c.id, runs.c.name).order_by(runs.c.seq.desc()).limit(1000)
    return {word for row in db.execute(recent) for word in row}


@dataclass(frozen=True, slots=True)
class RunStatus:
    """What `wait` needs to know of a run."""

    id: str
    name: str
    seed: int
    state: RunState
    reason: EndReason | None
    message: str


class RunStatuses(StorePart):
    """Asking how runs stand."""

    @read_tx
    def statuses(self, db: Connection, ids: Sequence[str]) -> list[RunStatus]:
        """Return where these runs stand, in the order given; one that was removed is left out."""
        columns = [runs.c[name] for name in ("id", "name", "seed", "state", "reason", "message")]
        status_by_id = {
            row.id: RunStatus(
                row.id,
                row.name,
                row.seed,
                RunState(row.state),
                EndReason(row.reason) if row.reason else None,
                row.message,
            )
            for batch in batches(ids)
            for row in db.execute(select(*columns).where(runs.c.id.in_(batch)))
        }
        return [status_by_id[run_id] for run_id in ids if run_id in status_by_id]

    @read_tx
    def sweep_run_ids(self, db: Connection, sweep: str) -> list[str]:
        """Return the ids of a sweep's runs, in the order they were submitted."""
        query = (
            select(runs.c.id).where(runs.c.id.in_(select_sweep_run_ids(sweep))).order_by(runs.c.seq)
        )
        return list(db.scalars(query))


class RunCommands(StorePart):
    """Commands by run id; each returns the run's state afterwards."""

    @exclusive_tx
    def cancel(self, db: Connection, run_id: str) -> RunState:
        """Cancel a run: at once when nobody works on it, else at its worker's next renewal.

        Raises NotFound, and IllegalTransition for a finished run.
        """
        row = select_for_update(db, run_id)
        state = RunState(row.state)
        _check_unfinished(run_id, state, "cancelled")
        if state is RunState.RUNNING:
            db.execute(update(runs).where(runs.c.id == run_id).values(cancel_requested=True))
            record_event(db, run_id, "cancel-requested")
            return state
        transition(
            *(db, run_id, state, RunState.CANCELLED, "cancelled"),
            reason=EndReason.CANCELLED,
            finished_at=now(),
            not_before=None,
        )
        fail_children(db, run_id, row.name, "was cancelled")
        return RunState.CANCELLED

    @exclusive_tx
    def retry(self, db: Connection, run_id: str, *, from_scratch: bool = False) -> RunState:
        """Put a failed or cancelled run back, with its failed parents and the children it failed.

        ``from_scratch`` forgets its metrics and checkpoints. Raises NotFound, and
        IllegalTransition for a run in any other state.
        """
        state = RunState(select_for_update(db, run_id).state)
        if state not in RETRYABLE:
            is_or_has = f"is {state}" if state in ACTIVE_STATES else f"has {_ended(state)}"
            raise IllegalTransition(
                f"run {run_id} {is_or_has}; only a failed or cancelled run is tried again"
            )
        requeue(db, run_id, "retried", from_scratch=from_scratch)
        return RunState(select_for_update(db, run_id).state)

    @exclusive_tx
    def hold(self, db: Connection, *run_ids: str, held: bool = True) -> None:
        """Keep unfinished runs from being claimed, or let them go: all, or on an error none.

        A running one goes on, and is held when it is put back. Raises NotFound, and
        IllegalTransition for a finished run.
        """
        for run_id in run_ids:
            row = select_for_update(db, run_id)
            _check_unfinished(run_id, RunState(row.state), "held" if held else "released")
            if row.held != held:
                db.execute(update(runs).where(runs.c.id == run_id).values(held=held))
                record_event(db, run_id, "held" if held else "unheld")

    @exclusive_tx
    def prioritize(self, db: Connection, *run_ids: str, priority: int) -> None:
        """Let unfinished runs be claimed before those of a lower priority: all, or none.

        Unfinished parents get at least as much, or they would keep them waiting. Raises NotFound,
        and IllegalTransition for a finished run.
        """
        for run_id in run_ids:
            row = select_for_update(db, run_id)
            _check_unfinished(run_id, RunState(row.state), "given a priority")
            if row.urgency != -priority:
                db.execute(update(runs).where(runs.c.id == run_id).values(urgency=-priority))
                record_event(db, run_id, "priority", detail=str(priority))
            raise_parent_priority(db, run_id, -priority)


def _check_unfinished(run_id: str, state: RunState, verb: str) -> None:
    if state not in ACTIVE_STATES:
        raise IllegalTransition(f"run {run_id} has {_ended(state)} and cannot be {verb}")


def _ended(state: RunState) -> str:
    return "been cancelled" if state is RunState.CANCELLED else state.value
