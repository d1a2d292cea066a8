"""The queue as a whole: one read for those who watch it, and what is stuck in it.

No query here reads more metric points than it returns: the primary key finds the latest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select

from lsqctl.run import ACTIVE_STATES, EndReason, Run, RunState
from lsqctl.store.database import StorePart, read_tx
from lsqctl.store.dialects import decode_float, now
from lsqctl.store.metrics import training_start
from lsqctl.store.rows import select_runs, to_run
from lsqctl.store.tables import (
    AnyColumn,
    AnySelect,
    live_runs,
    metric_points,
    metric_summaries,
    runs,
    sweep_cells,
    workers,
)
from lsqctl.store.workers import RegisteredWorker, to_identity

_DAY_SECONDS = 86_400.0
MAX_POINTS = 24  # of each metric of a running run
_Conditions = Sequence[ColumnElement[bool]]
MAX_DURATIONS = 300  # finished runs, the newest, that estimates are made from


@dataclass(frozen=True, slots=True)
class RunningRun:
    """A run at work. Its attempt began at ``start_step``, at ``training_since``; None until it has.

    ``loss`` and ``top1`` are the latest points, oldest first, of training and of evaluation.
    """

    run: Run
    start_step: int | None
    training_since: datetime | None
    loss: tuple[float, ...]
    top1: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker that has not said goodbye. ``stale``: no heartbeat for a lease."""

    worker: RegisteredWorker
    running_runs: int
    seconds_since_heartbeat: float
    stale: bool
    notice: str


@dataclass(frozen=True, slots=True)
class PendingGroup:
    """So many runs that are not started, alike in what decides how long they take."""

    recipe_sha256: str
    sweep: str | None
    epochs: int
    held: bool
    count: int


@dataclass(frozen=True, slots=True)
class RunDuration:
    """A run that succeeded in one attempt, and how many seconds that took."""

    recipe_sha256: str
    sweep: str | None
    epochs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class QueueOverview:
    """The queue at one moment of the database's clock.

    ``first_failure`` is the first run that failed since the oldest unfinished one was submitted,
    or the newest failure when nothing is unfinished; ``retrying`` are runs that wait for another
    try after a fault.
    """

    now: datetime
    counts: dict[RunState, int]
    workers: tuple[WorkerStatus, ...]
    running: tuple[RunningRun, ...]
    pending: tuple[PendingGroup, ...]
    durations: tuple[RunDuration, ...]
    first_failure: Run | None
    retrying: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """Runs that may never start by themselves; an empty id where there is none."""

    held: int
    held_run: str
    max_gpus: int
    largest_run: str
    oldest_run: str
    oldest_hours: float


@dataclass(frozen=True, slots=True)
class PilotWorker:
    """A worker that a pilot became. ``silent``: it has ended, or was not heard of for 2 leases."""

    name: str  # SCHEDULER-JOB.RESTART-NONCE
    running_runs: int
    silent: bool

    @property
    def job_id(self) -> str:
        """The job id of its pilot."""
        return self.name.partition("-")[2].rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a dispatcher wants to know.

    ``ready``: (GPUs, runs that nobody owns), the most urgent first; those that wait for a back-off
    or for no parent count, held ones do not.
    """

    ready: tuple[tuple[int, int], ...]
    workers: tuple[PilotWorker, ...]


class QueueOverviews(StorePart):
    """Reads of the queue as a whole."""

    @read_tx
    def demand(self, db: Connection, scheduler: str) -> Demand:
        """Return what is queued, and the workers of a scheduler's pilots seen within a day."""
        queued = live_runs.c.state == RunState.QUEUED, live_runs.c.held.is_(False)
        ready = db.execute(
            select(live_runs.c.gpus, func.count())
            .where(*queued)
            .group_by(live_runs.c.gpus)
            .order_by(func.max(live_runs.c.priority).desc(), func.min(live_runs.c.seq))
        )
        return Demand(
            tuple((gpus, count) for gpus, count in ready),
            tuple(_pilot_workers(db, scheduler, self.lease_seconds)),
        )

    @read_tx
    def overview(self, db: Connection, *, sweep: str | None = None) -> QueueOverview:
        """Return the queue as it is now, perhaps of one sweep only; workers are always all."""
        conditions: _Conditions = [live_runs.c.id.in_(select_sweep_run_ids(sweep))] if sweep else []
        moment: datetime = db.execute(select(now())).scalar_one()
        return QueueOverview(
            now=moment,
            counts=_counts(db, conditions),
            workers=_worker_statuses(db, moment, self.lease_seconds),
            running=tuple(_running(db, conditions)),
            pending=_pending(db, conditions),
            durations=_durations(db),
            first_failure=_first_failure(db, conditions),
            retrying=_retrying(db, conditions),
        )

    @read_tx
    def health(self, db: Connection, min_wait: timedelta) -> QueueHealth:
        """Return the state of what is not started; the oldest only if it waits for ``min_wait``."""
        not_started = live_runs.c.state.in_([RunState.WAITING, RunState.QUEUED])
        held = not_started, live_runs.c.held.is_(True)
        ready = live_runs.c.state == RunState.QUEUED, live_runs.c.held.is_(False)
        first_held = db.scalar(
            select(live_runs.c.id).where(*held).order_by(live_runs.c.seq).limit(1)
        )
        largest = select(live_runs.c.id, live_runs.c.gpus).where(*ready)
        largest_row = db.execute(
            largest.order_by(live_runs.c.gpus.desc(), live_runs.c.seq).limit(1)
        ).one_or_none()
        waiting = select(live_runs.c.id, live_runs.c.created_at, now().label("now")).where(
            *ready,
            live_runs.c.attempt == 0,
            live_runs.c.created_at < now(-min_wait.total_seconds()),
        )
        oldest = db.execute(waiting.order_by(live_runs.c.created_at).limit(1)).one_or_none()
        return QueueHealth(
            held=db.scalar(select(func.count()).select_from(live_runs).where(*held)) or 0,
            held_run=first_held or "",
            max_gpus=largest_row.gpus if largest_row else 0,
            largest_run=largest_row.id if largest_row else "",
            oldest_run=oldest.id if oldest else "",
            oldest_hours=(oldest.now - oldest.created_at).total_seconds() / 3600 if oldest else 0.0,
        )


def select_sweep_run_ids(sweep: str) -> AnySelect:
    """Return a query for the ids of a sweep's runs."""
    return select(sweep_cells.c.run_id).where(sweep_cells.c.sweep == sweep)


def _counts(db: Connection, conditions: _Conditions) -> dict[RunState, int]:
    query = (
        select(live_runs.c.state, func.count().label("n"))
        .where(*conditions)
        .group_by(live_runs.c.state)
    )
    count_by_state = {RunState(row.state): int(row.n) for row in db.execute(query)}
    return {state: count_by_state.get(state, 0) for state in RunState}


def _worker_statuses(
    db: Connection, moment: datetime, lease_seconds: float
) -> tuple[WorkerStatus, ...]:
    running_query = select(live_runs.c.worker_id, func.count().label("n")).where(
        live_runs.c.state == RunState.RUNNING
    )
    runs_by_worker = {
        row.worker_id: int(row.n)
        for row in db.execute(running_query.group_by(live_runs.c.worker_id))
    }
    query = select(*(c.label(f"worker_{c.name}") for c in workers.c))
    query = query.where(workers.c.stopped_at.is_(None))
    statuses = []
    for row in db.execute(query.order_by(workers.c.registered_at, workers.c.id)):
        worker = RegisteredWorker(
            to_identity(row), row.worker_registered_at, row.worker_last_heartbeat_at, None
        )
        silent_seconds = (moment - worker.last_heartbeat_at).total_seconds()
        running_runs = runs_by_worker.get(worker.identity.id, 0)
        statuses.append(
            WorkerStatus(
                worker,
                running_runs,
                silent_seconds,
                silent_seconds > lease_seconds,
                row.worker_notice,
            )
        )
    return tuple(statuses)


def _running(db: Connection, conditions: _Conditions) -> list[RunningRun]:
    query = (
        select_runs()
        .where(live_runs.c.state == RunState.RUNNING, *conditions)
        .order_by(live_runs.c.seq)
    )
    return [_with_points(db, to_run(row)) for row in db.execute(query).all()]


def _with_points(db: Connection, run: Run) -> RunningRun:
    return RunningRun(
        run,
        *training_start(db, run.id),
        _latest_points(db, run.id, "loss", "train"),
        _latest_points(db, run.id, "top1", _evaluation_split(db, run.id)),
    )


def _evaluation_split(db: Connection, run_id: str) -> str:
    columns = metric_summaries.c
    query = select(columns.split).where(
        columns.run_id == run_id, columns.name == "top1", columns.split != "train"
    )
    return db.scalar(query.order_by(columns.last_step.desc()).limit(1)) or ""


def _latest_points(db: Connection, run_id: str, name: str, split: str) -> tuple[float, ...]:
    columns = metric_points.c
    query = (
        select(columns.value, columns.kind)
        .where(columns.run_id == run_id, columns.name == name, columns.split == split)
        .order_by(columns.step.desc())
        .limit(MAX_POINTS)
    )
    return tuple(decode_float(row.value, row.kind) for row in db.execute(query))[::-1]


def _pending(db: Connection, conditions: _Conditions) -> tuple[PendingGroup, ...]:
    group_columns = live_runs.c.recipe_sha256, _sweep_of(), live_runs.c.epochs, live_runs.c.held
    query = select(*group_columns, func.count().label("n")).where(
        live_runs.c.state.in_([RunState.WAITING, RunState.QUEUED]), *conditions
    )
    rows = db.execute(query.group_by(*group_columns))
    return tuple(PendingGroup(r.recipe_sha256, r.sweep, r.epochs, bool(r.held), r.n) for r in rows)


def _sweep_of() -> AnyColumn:
    query = select(func.min(sweep_cells.c.sweep)).where(sweep_cells.c.run_id == live_runs.c.id)
    return query.scalar_subquery().label("sweep")


def _durations(db: Connection) -> tuple[RunDuration, ...]:
    query = (
        select(
            live_runs.c.recipe_sha256,
            _sweep_of(),
            live_runs.c.epochs,
            live_runs.c.started_at,
            live_runs.c.finished_at,
            live_runs.c.attempt,
        )
        .where(live_runs.c.state == RunState.SUCCEEDED, live_runs.c.started_at.is_not(None))
        .order_by(live_runs.c.seq.desc())
        .limit(MAX_DURATIONS)
    )
    return tuple(
        RunDuration(
            row.recipe_sha256,
            row.sweep,
            row.epochs,
            (row.finished_at - row.started_at).total_seconds(),
        )
        for row in db.execute(query)
        if row.finished_at is not None and row.attempt == 1  # a later one did only a part
    )


def _first_failure(db: Connection, conditions: _Conditions) -> Run | None:
    began = db.scalar(
        select(func.min(live_runs.c.created_at)).where(
            live_runs.c.state.in_(ACTIVE_STATES), *conditions
        )
    )
    failed = and_(live_runs.c.state == RunState.FAILED, *conditions)
    # a cause before its consequences
    by_parent = case((live_runs.c.reason == EndReason.PARENT, 1), else_=0)
    query = select_runs().where(failed).order_by(by_parent)
    if began is not None:
        query = query.where(live_runs.c.finished_at >= began).order_by(live_runs.c.finished_at)
    else:
        query = query.order_by(live_runs.c.finished_at.desc())
    row = db.execute(query.order_by(live_runs.c.seq).limit(1)).one_or_none()
    return to_run(row) if row else None


def _retrying(db: Connection, conditions: _Conditions) -> tuple[Run, ...]:
    faults = [EndReason.WORKER_LOST, EndReason.INFRA]
    query = select_runs().where(
        live_runs.c.state == RunState.QUEUED, live_runs.c.reason.in_(faults), *conditions
    )
    return tuple(to_run(row) for row in db.execute(query.order_by(live_runs.c.seq).limit(5)))


def _pilot_workers(db: Connection, scheduler: str, lease_seconds: float) -> Iterator[PilotWorker]:
    silent = or_(
        workers.c.stopped_at.is_not(None), workers.c.last_heartbeat_at < now(-2 * lease_seconds)
    )
    running = and_(runs.c.worker_id == workers.c.id, runs.c.state == RunState.RUNNING)
    query = (
        select(workers.c.name, func.count(runs.c.id), case((silent, 1), else_=0))
        .outerjoin(runs, running)
        .where(
            workers.c.name.startswith(f"{scheduler}-", autoescape=True),
            workers.c.last_heartbeat_at >= now(-_DAY_SECONDS),
        )
        .group_by(workers.c.id)
    )
    for name, count, is_silent in db.execute(query):
        yield PilotWorker(name, count, bool(is_silent))
