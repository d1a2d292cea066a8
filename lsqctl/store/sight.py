"""What a person who watches wants to see now: one read, and of each running run a few points.

No query here reads more metric points than it returns: the primary key finds the latest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, select

from lsqctl.run import UNFINISHED, EndReason, Run, RunState
from lsqctl.store.base import Base
from lsqctl.store.columns import join_float, now
from lsqctl.store.database import reads
from lsqctl.store.rows import select_runs, to_run
from lsqctl.store.tables import (
    attempts,
    events,
    metric_points,
    metric_summaries,
    runs,
    sweep_cells,
    workers,
)
from lsqctl.store.workers import KnownWorker, to_identity

POINTS = 24  # of each metric of a running run
_Where = Sequence[ColumnElement[bool]]
TIMED = 300  # finished runs, the newest, that estimates are made from


@dataclass(frozen=True, slots=True)
class RunningRun:
    """A run at work. Its attempt took up at ``base_step``, at ``base_at``; None until it has.

    ``loss`` and ``top1`` are the latest points, oldest first, of training and of evaluation.
    """

    run: Run
    base_step: int | None
    base_at: datetime | None
    loss: tuple[float, ...]
    top1: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SeenWorker:
    """A worker that has not said goodbye. ``lost`` says that it has not renewed for a lease."""

    worker: KnownWorker
    busy: int
    seen_seconds: float
    lost: bool
    notice: str


@dataclass(frozen=True, slots=True)
class Pending:
    """So many runs that are not started, alike in what decides how long they take."""

    recipe_sha256: str
    sweep: str | None
    epochs: int
    held: bool
    count: int


@dataclass(frozen=True, slots=True)
class Timed:
    """A run that succeeded in one attempt, and how many seconds that took."""

    recipe_sha256: str
    sweep: str | None
    epochs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Sight:
    """The queue at one moment of the database's clock.

    ``first_failure`` is the first run that failed since the oldest unfinished one was submitted,
    or the newest failure when nothing is unfinished; ``put_back`` are runs that wait for another
    try after a fault.
    """

    now: datetime
    counts: dict[RunState, int]
    workers: tuple[SeenWorker, ...]
    running: tuple[RunningRun, ...]
    pending: tuple[Pending, ...]
    timed: tuple[Timed, ...]
    first_failure: Run | None
    put_back: tuple[Run, ...]


class Sights(Base):
    """Looking at the queue as a whole."""

    @reads
    def sight(self, db: Connection, *, sweep: str | None = None) -> Sight:
        """Return the queue as it is now, perhaps of one sweep only; workers are always all."""
        of: _Where = [runs.c.id.in_(cells_of(sweep))] if sweep else []
        moment: datetime = db.execute(select(now())).scalar_one()
        return Sight(
            now=moment,
            counts=_counts(db, of),
            workers=_workers(db, moment, self.lease_seconds),
            running=tuple(_running(db, of)),
            pending=_pending(db, of),
            timed=_timed(db),
            first_failure=_first_failure(db, of),
            put_back=_put_back(db, of),
        )


def cells_of(sweep: str) -> Any:
    """Return a query for the ids of a sweep's runs."""
    return select(sweep_cells.c.run_id).where(sweep_cells.c.sweep == sweep)


def _counts(db: Connection, of: _Where) -> dict[RunState, int]:
    query = select(runs.c.state, func.count().label("n")).where(*of).group_by(runs.c.state)
    found = {RunState(row.state): int(row.n) for row in db.execute(query)}
    return {state: found.get(state, 0) for state in RunState}


def _workers(db: Connection, moment: datetime, lease: float) -> tuple[SeenWorker, ...]:
    busy = select(runs.c.worker_id, func.count().label("n")).where(runs.c.state == RunState.RUNNING)
    of_worker = {row.worker_id: int(row.n) for row in db.execute(busy.group_by(runs.c.worker_id))}
    query = select(*(c.label(f"worker_{c.name}") for c in workers.c))
    query = query.where(workers.c.gone_at.is_(None))
    found = []
    for row in db.execute(query.order_by(workers.c.registered_at, workers.c.id)):
        known = KnownWorker(to_identity(row), row.worker_registered_at, row.worker_seen_at, None)
        quiet = (moment - known.seen_at).total_seconds()
        at_work = of_worker.get(known.identity.id, 0)
        found.append(SeenWorker(known, at_work, quiet, quiet > lease, row.worker_notice))
    return tuple(found)


def _running(db: Connection, of: _Where) -> list[RunningRun]:
    query = select_runs().where(runs.c.state == RunState.RUNNING, *of).order_by(runs.c.seq)
    return [_with_points(db, to_run(row)) for row in db.execute(query).all()]


def _with_points(db: Connection, run: Run) -> RunningRun:
    return RunningRun(
        run,
        *_base(db, run),
        _latest(db, run.id, "loss", "train"),
        _latest(db, run.id, "top1", _evaluation_split(db, run.id)),
    )


def _base(db: Connection, run: Run) -> tuple[int | None, datetime | None]:
    """Return the step that the attempt took up at (0 from scratch), and when; None before."""
    resumed = select(events.c.at).where(
        events.c.run_id == run.id, events.c.kind == "resumed", events.c.attempt == run.attempt
    )
    at = db.scalar(resumed.limit(1))
    if at is None:
        return None, None
    mine = attempts.c.run_id == run.id, attempts.c.number == run.attempt
    return db.scalar(select(attempts.c.resumed_step).where(*mine)) or 0, at


def _evaluation_split(db: Connection, run_id: str) -> str:
    columns = metric_summaries.c
    query = select(columns.split).where(
        columns.run_id == run_id, columns.name == "top1", columns.split != "train"
    )
    return db.scalar(query.order_by(columns.last_step.desc()).limit(1)) or ""


def _latest(db: Connection, run_id: str, name: str, split: str) -> tuple[float, ...]:
    columns = metric_points.c
    query = (
        select(columns.value, columns.kind)
        .where(columns.run_id == run_id, columns.name == name, columns.split == split)
        .order_by(columns.step.desc())
        .limit(POINTS)
    )
    return tuple(join_float(row.value, row.kind) for row in db.execute(query))[::-1]


def _pending(db: Connection, of: _Where) -> tuple[Pending, ...]:
    alike = runs.c.recipe_sha256, _sweep_of(), runs.c.epochs, runs.c.held
    query = select(*alike, func.count().label("n")).where(
        runs.c.state.in_([RunState.WAITING, RunState.QUEUED]), *of
    )
    rows = db.execute(query.group_by(*alike))
    return tuple(Pending(r.recipe_sha256, r.sweep, r.epochs, bool(r.held), r.n) for r in rows)


def _sweep_of() -> Any:
    query = select(func.min(sweep_cells.c.sweep)).where(sweep_cells.c.run_id == runs.c.id)
    return query.scalar_subquery().label("sweep")


def _timed(db: Connection) -> tuple[Timed, ...]:
    query = (
        select(
            *(runs.c.recipe_sha256, _sweep_of(), runs.c.epochs),
            *(runs.c.started_at, runs.c.finished_at, runs.c.attempt),
        )
        .where(runs.c.state == RunState.SUCCEEDED, runs.c.started_at.is_not(None))
        .order_by(runs.c.seq.desc())
        .limit(TIMED)
    )
    return tuple(
        Timed(
            *(row.recipe_sha256, row.sweep, row.epochs),
            (row.finished_at - row.started_at).total_seconds(),
        )
        for row in db.execute(query)
        if row.finished_at is not None and row.attempt == 1  # a later one did only a part
    )


def _first_failure(db: Connection, of: _Where) -> Run | None:
    began = db.scalar(select(func.min(runs.c.created_at)).where(runs.c.state.in_(UNFINISHED), *of))
    failed = and_(runs.c.state == RunState.FAILED, *of)
    query = select_runs().where(failed)
    if began is not None:
        query = query.where(runs.c.finished_at >= began).order_by(runs.c.finished_at)
    else:
        query = query.order_by(runs.c.finished_at.desc())
    # of runs that failed together, the one that made the others fail
    by_parent = case((runs.c.reason == EndReason.PARENT, 1), else_=0)
    row = db.execute(query.order_by(by_parent, runs.c.seq).limit(1)).one_or_none()
    return to_run(row) if row else None


def _put_back(db: Connection, of: _Where) -> tuple[Run, ...]:
    faults = [EndReason.LOST, EndReason.INFRA]
    query = select_runs().where(runs.c.state == RunState.QUEUED, runs.c.reason.in_(faults), *of)
    return tuple(to_run(row) for row in db.execute(query.order_by(runs.c.seq).limit(5)))
