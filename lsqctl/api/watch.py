"""What is happening: the queue at one moment, with estimates where they can be made honestly."""

from __future__ import annotations

import heapq
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lsqctl.run import UNFINISHED
from lsqctl.wording import counted

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.store.sight import Pending, RunningRun, SeenWorker, Sight

_FORGOTTEN_SECONDS = 3600.0  # a worker that died without a word is shown so long


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds until the queue is empty; None, with the reason in words, where nobody can tell."""

    seconds: float | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Watched:
    """The queue at one moment. ``left`` maps a running run's id to its seconds left."""

    sight: Sight
    sweep: str | None
    workers: tuple[SeenWorker, ...]
    left: dict[str, float]
    queue: Estimate

    @property
    def unfinished(self) -> int:
        """How many runs are waiting, queued or running."""
        return sum(self.sight.counts[state] for state in UNFINISHED)


def watch(store: Store, *, sweep: str | None = None) -> Watched:
    """Look once.  Raises StoreError."""
    sight = store.sight(sweep=sweep)
    left = {
        one.run.id: seconds
        for one in sight.running
        if (seconds := seconds_left(one, sight)) is not None
    }
    shown = tuple(one for one in sight.workers if one.busy or one.seen_seconds < _FORGOTTEN_SECONDS)
    return Watched(sight, sweep, shown, left, queue_estimate(sight, left))


def seconds_left(one: RunningRun, sight: Sight) -> float | None:
    """Return the time that a running run still needs at the rate of this attempt.

    None before its first step, and for one whose worker is silent.
    """
    run = one.run
    if run.lease_lapsed or one.base_step is None or one.base_at is None:
        return None
    done, todo = run.step - one.base_step, run.total_steps - run.step
    elapsed = (sight.now - one.base_at).total_seconds()
    if done <= 0 or todo < 0 or elapsed <= 0:
        return None
    return elapsed / done * todo


def queue_estimate(sight: Sight, left: dict[str, float]) -> Estimate:
    """Return when the queue will be empty: known durations, dealt to the slots of live workers.

    A run that is not started counts as long as the median of the newest that succeeded of its
    recipe, else of its sweep, with as many epochs. Where one has neither, there is no estimate.
    """
    open_runs = [one for one in sight.pending if not one.held]
    if not sight.running and not open_runs:
        return Estimate(0.0 if not sight.pending else None, "" if not sight.pending else "all held")
    slots = sum(one.worker.identity.slots for one in sight.workers if not one.lost)
    if not slots:
        return Estimate(None, "no worker is at work")
    if missing := len(sight.running) - len(left):
        return Estimate(None, f"{missing} running without a rate yet")
    durations = _durations(sight, left)
    unknown = sum(one.count for one in open_runs if _expected(one, durations) is None)
    if unknown:
        return Estimate(None, f"{counted(unknown, 'run')} of a kind that none has finished yet")
    work = [(_expected(one, durations) or 0.0, one.count) for one in open_runs]
    return Estimate(_dealt(left.values(), work, slots))


def _durations(sight: Sight, left: dict[str, float]) -> dict[tuple[str, int], float]:
    """Return the median seconds by (recipe or sweep, epochs)."""
    known: dict[tuple[str, int], list[float]] = defaultdict(list)
    for one in sight.timed:
        for key in filter(None, (one.recipe_sha256, one.sweep)):
            known[key, one.epochs].append(one.seconds)
    for running in sight.running:  # a sweep's first cells tell about its others
        run = running.run
        if running.base_step == 0 and run.started_at is not None:
            whole = (sight.now - run.started_at).total_seconds() + left[run.id]
            for key in filter(None, (run.recipe_sha256, run.sweep)):
                known[key, run.epochs].append(whole)
    return {key: statistics.median(values) for key, values in known.items()}


def _expected(one: Pending, durations: dict[tuple[str, int], float]) -> float | None:
    own = durations.get((one.recipe_sha256, one.epochs))
    return own if own is not None else durations.get((one.sweep or "", one.epochs))


def _dealt(busy: Iterable[float], work: list[tuple[float, int]], slots: int) -> float:
    """Return when the last slot is free, each run going to the slot that is free first."""
    free = sorted(busy)[:slots]
    free += [0.0] * (slots - len(free))
    heapq.heapify(free)
    for seconds, count in sorted(work, reverse=True):
        for _ in range(count):
            heapq.heapreplace(free, free[0] + seconds)
    return max(free)
