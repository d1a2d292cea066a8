"""Trackers of an attempt: each in a thread of its own, unable to end or delay the run."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lsqctl.discovery import plugin_faults
from lsqctl.errors import LsqctlError
from lsqctl.events import Metric, QuantizerStats, Resumed, TrainingEvent
from lsqctl.run import RunDetail
from lsqctl.trackers import TRACKERS, Number, TrackedRun, Tracker

CLOSE_SECONDS = 10.0  # how long the end of an attempt waits for a tracker
_MAX_WAITING = 100_000  # numbers; more than that of a tracker that hangs are dropped
_BATCH_SECONDS = 1.0


class _TrackerThread:
    """One tracker, from its making to its end; what goes wrong is said once, in the log."""

    def __init__(self, name: str, run: TrackedRun) -> None:
        self._name, self._run = name, run
        self._numbers: queue.Queue[Number | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._follow, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, numbers: Sequence[Number]) -> None:
        with contextlib.suppress(queue.Full):
            for number in numbers:
                self._numbers.put_nowait(number)

    def close(self, deadline: float) -> None:
        with contextlib.suppress(queue.Full):
            self._numbers.put_nowait(None)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._say(f"has not ended within {CLOSE_SECONDS:g} s and is left behind")

    def _follow(self) -> None:
        try:
            plugin = TRACKERS.plugin_of(self._name)
            with plugin_faults(plugin):
                followed: Tracker = TRACKERS.load(self._name)(self._run)
                for batch in self._batches():
                    followed.log(batch)
                followed.close()
        except (LsqctlError, OSError, ValueError) as error:
            self._say(f"is switched off: {error}")

    def _batches(self) -> Iterator[list[Number]]:
        """Yield what has come, about once a second, until the end of the attempt."""
        while True:
            batch = [self._numbers.get()]
            with contextlib.suppress(queue.Empty):
                while batch[-1] is not None:
                    batch.append(self._numbers.get(timeout=_BATCH_SECONDS))
            if numbers := [number for number in batch if number is not None]:
                yield numbers
            if batch[-1] is None:
                return

    def _say(self, text: str) -> None:
        print(f"lsqctl: the tracker {self._name} {text}; the run goes on", flush=True)


class Tracking:
    """All trackers of an attempt; they begin when the attempt knows from where it goes on."""

    def __init__(
        self,
        names: Sequence[str],
        detail: RunDetail,
        run_dir: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._names, self._detail, self._run_dir, self._clock = names, detail, run_dir, clock
        self._threads: list[_TrackerThread] = []

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *_: object) -> None:
        """End all trackers, and wait a little for those that are slow."""
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.close(deadline)

    def record(self, event: TrainingEvent) -> None:
        """Hand an event's numbers to every tracker; never raises, never waits."""
        if isinstance(event, Resumed):
            run = self._tracked_run(event.step)
            self._threads = [_TrackerThread(name, run) for name in self._names]
        elif isinstance(event, Metric | QuantizerStats) and self._threads:
            numbers = _numbers(event, self._clock())
            for thread in self._threads:
                thread.put(numbers)

    def _tracked_run(self, step: int | None) -> TrackedRun:
        run, recipe = self._detail.run, self._detail.recipe
        return TrackedRun(run.id, run.name, run.seed, run.attempt, recipe, self._run_dir, step)


def _numbers(event: Metric | QuantizerStats, now: float) -> list[Number]:
    if isinstance(event, Metric):
        return [Number(f"{event.split}/{event.name}", event.step, event.value, now)]
    values = {"step_size": event.step_size, "clip_fraction": event.clip_fraction}
    return [
        Number(f"{what}/{event.name}", event.step, value, now) for what, value in values.items()
    ]
