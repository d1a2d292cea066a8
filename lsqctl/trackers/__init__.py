"""Trackers, one module each: ``@tracker(NAME, …)`` declares what hears of a run as it trains.

What is declared is a class, made with a ``TrackedRun`` for each attempt; ``log`` is given what was
measured, in order, and ``close`` ends it. It is called in a thread of its own, and whatever it
raises switches it off for the attempt: a tracker never fails a run, nor does the run wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lsqctl.registry import Registry
from lsqctl.run import JsonObject

__all__ = [
    "TRACKERS",
    "Number",
    "TrackedRun",
    "Tracker",
    "TrackerInfo",
    "check_trackers",
    "tracker",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerInfo:
    """What is known of a tracker before it is used; ``description`` stands in docs/tracking.md."""

    description: str


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """The attempt that a tracker hears of.

    ``folder`` is the run's own, where a tracker may make a folder of its name. ``resumed_step`` is
    the step that the attempt goes on from: what was logged after it is measured again. None is from
    scratch.
    """

    id: str
    name: str
    seed: int
    attempt: int
    recipe: JsonObject
    folder: Path
    resumed_step: int | None


@dataclass(frozen=True, slots=True)
class Number:
    """One measured number: ``tag`` as ``test/top1``, after ``step`` optimizer steps, in ``time``.

    ``time`` is in seconds since 1970. ``value`` may be NaN or infinite.
    """

    tag: str
    step: int
    value: float
    time: float


class Tracker(Protocol):
    """What the decorated class does."""

    def __init__(self, run: TrackedRun) -> None: ...

    def log(self, numbers: Sequence[Number]) -> None:
        """Take what was measured since the last call."""

    def close(self) -> None:
        """End: the attempt is over, however it ended."""


TRACKERS = Registry(__name__, "tracker", TrackerInfo, noun="tracker", group="lsqctl.trackers")
tracker = TRACKERS.declare


def check_trackers(names: Sequence[str]) -> None:
    """Raise NotFound, with the nearest name, or PluginError for a tracker that cannot be used."""
    for name in names:
        TRACKERS.find(name)
