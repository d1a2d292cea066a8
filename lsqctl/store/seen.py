"""What one look at the queue finds, as values.  No database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from lsqctl.run import EndReason, Run, RunState
from lsqctl.store.workers import KnownWorker


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


@dataclass(frozen=True, slots=True)
class Standing:
    """What `wait` needs to know of a run."""

    id: str
    name: str
    seed: int
    state: RunState
    reason: EndReason | None
    message: str
