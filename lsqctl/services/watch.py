"""The queue at one moment, with estimates of the time left where they can be made honestly."""

from __future__ import annotations

import heapq
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.run import ACTIVE_STATES
from lsqctl.text import pluralize

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.store.queue_overview import PendingGroup, QueueOverview, RunningRun, WorkerStatus

_HIDE_WORKER_SECONDS = 3600.0  # a worker that died without a word is shown so long


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds until the queue is empty; None, with the reason in words, where nobody can tell."""

    seconds: float | None
    reason: str = ""


PILOTS_SUFFIX = ".pilots.json"  # a dispatcher keeps PROFILE.pilots.json in `cluster`
_HIDE_PILOTS_SECONDS = 600.0  # after its dispatcher wrote last


@dataclass(frozen=True, slots=True)
class ReportedPilot:
    """A pilot as its dispatcher saw it last; ``state`` and ``reason`` are the scheduler's words."""

    profile: str
    job: str
    gpus: str
    state: str
    node: str
    role: str
    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The queue at one moment. ``seconds_left`` is by the id of a running run."""

    overview: QueueOverview
    sweep: str | None
    workers: tuple[WorkerStatus, ...]
    seconds_left: dict[str, float]
    estimate: Estimate
    pilots: tuple[ReportedPilot, ...] = ()

    @property
    def n_active(self) -> int:
        """How many runs are waiting, queued or running."""
        return sum(self.overview.counts[state] for state in ACTIVE_STATES)


def read_pilots(home: Path) -> tuple[ReportedPilot, ...]:
    """Return the pilots that dispatchers of this workspace saw within ten minutes.

    The scheduler is not asked: many may watch.
    """
    pilots: list[ReportedPilot] = []
    for path in sorted((home / "cluster").glob(f"*{PILOTS_SUFFIX}")):
        with suppress(OSError, ValueError, KeyError, TypeError):  # another version's, or gone
            content = json.loads(path.read_text("utf-8"))
            if time.time() - content["at"] < _HIDE_PILOTS_SECONDS:
                pilots += [ReportedPilot(**row) for row in content["pilots"]]
    return tuple(pilots)


def read_queue_status(
    store: Store, *, sweep: str | None = None, home: Path | None = None
) -> QueueStatus:
    """Read the queue once, and the pilots of the workspace ``home``.  Raises StoreError."""
    overview = store.queue.overview(sweep=sweep)
    remaining = {
        entry.run.id: seconds
        for entry in overview.running
        if (seconds := estimate_run_seconds(entry, overview)) is not None
    }
    workers = tuple(
        entry
        for entry in overview.workers
        if entry.running_runs or entry.seconds_since_heartbeat < _HIDE_WORKER_SECONDS
    )
    return QueueStatus(
        overview,
        sweep,
        workers,
        remaining,
        estimate_queue_seconds(overview, remaining),
        read_pilots(home) if home else (),
    )


def estimate_run_seconds(running: RunningRun, overview: QueueOverview) -> float | None:
    """Return the time that a running run still needs at the rate of this attempt.

    None before its first step, and for one whose worker is silent.
    """
    run = running.run
    if run.lease_expired or running.start_step is None or running.training_since is None:
        return None
    done, todo = run.step - running.start_step, run.total_steps - run.step
    elapsed = (overview.now - running.training_since).total_seconds()
    if done <= 0 or todo < 0 or elapsed <= 0:
        return None
    return elapsed / done * todo


def estimate_queue_seconds(overview: QueueOverview, seconds_left: dict[str, float]) -> Estimate:
    """Return when the queue will be empty: known durations, scheduled on the slots of live workers.

    A run that is not started counts as long as the median of the newest that succeeded of its
    recipe, else of its sweep, with as many epochs. Where one has neither, there is no estimate.
    """
    startable = [entry for entry in overview.pending if not entry.held]
    if not overview.running and not startable:
        return Estimate(
            0.0 if not overview.pending else None, "" if not overview.pending else "all held"
        )
    slots = sum(entry.worker.identity.slots for entry in overview.workers if not entry.stale)
    if not slots:
        return Estimate(None, "no worker is at work")
    if missing := len(overview.running) - len(seconds_left):
        return Estimate(None, f"{missing} running without a rate yet")
    durations = _median_seconds(overview, seconds_left)
    unknown = sum(entry.count for entry in startable if _expected_seconds(entry, durations) is None)
    if unknown:
        return Estimate(None, f"{pluralize(unknown, 'run')} of a kind that none has finished yet")
    jobs = [(_expected_seconds(entry, durations) or 0.0, entry.count) for entry in startable]
    return Estimate(_makespan(seconds_left.values(), jobs, slots))


def _median_seconds(
    overview: QueueOverview, seconds_left: dict[str, float]
) -> dict[tuple[str, int], float]:
    """Return the median seconds by (recipe or sweep, epochs)."""
    samples: dict[tuple[str, int], list[float]] = defaultdict(list)
    for finished in overview.durations:
        for key in filter(None, (finished.recipe_sha256, finished.sweep)):
            samples[key, finished.epochs].append(finished.seconds)
    for running in overview.running:  # a sweep's first cells tell about its others
        run = running.run
        if running.start_step == 0 and run.started_at is not None:
            total = (overview.now - run.started_at).total_seconds() + seconds_left[run.id]
            for key in filter(None, (run.recipe_sha256, run.sweep)):
                samples[key, run.epochs].append(total)
    return {key: statistics.median(values) for key, values in samples.items()}


def _expected_seconds(group: PendingGroup, durations: dict[tuple[str, int], float]) -> float | None:
    of_recipe = durations.get((group.recipe_sha256, group.epochs))
    return of_recipe if of_recipe is not None else durations.get((group.sweep or "", group.epochs))


def _makespan(seconds_left: Iterable[float], jobs: list[tuple[float, int]], slots: int) -> float:
    """Return when the last slot is free, each run going to the slot that is free first."""
    free_at = sorted(seconds_left)[:slots]
    free_at += [0.0] * (slots - len(free_at))
    heapq.heapify(free_at)
    for seconds, count in sorted(jobs, reverse=True):
        for _ in range(count):
            heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)
