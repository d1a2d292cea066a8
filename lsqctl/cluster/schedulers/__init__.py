"""The schedulers that start pilots, one module each: ``@scheduler(NAME, …)`` declares a class.

What is declared takes a ``Profile`` and has the three functions of ``Scheduler``. ``SCHEDULERS``
knows the names without importing them. What a scheduler says is advice: the lease in the database
alone decides who owns a run.
"""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from lsqctl.cluster.pilot_script import PilotRequest
from lsqctl.registry import Registry
from lsqctl.settings import scheduler_environment

__all__ = [
    "SCHEDULERS",
    "TIMEOUT_SECONDS",
    "Examinable",
    "Pilot",
    "Scheduler",
    "SchedulerInfo",
    "call_program",
    "pilot_name",
    "scheduler",
]

TIMEOUT_SECONDS = 30.0

_NAME = re.compile(r"lsqctl-[0-9a-f]+-[a-z0-9_]+-g(\d+)-[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Pilot:
    """One that was sent, as its scheduler has it: ``state`` and ``reason`` are its own words.

    ``waiting``: it has not started; ``ended``: it will not run any more. A state that nobody knows
    is neither. ``node`` is empty until it starts.
    """

    job_id: str
    name: str
    state: str
    reason: str = ""
    node: str = ""
    waiting: bool = False
    ended: bool = False

    @property
    def gpus(self) -> int:
        """How many GPUs the runs reserve that it takes."""
        match = _NAME.fullmatch(self.name)
        return int(match[1]) if match else 1


class Scheduler(Protocol):
    """What starts pilots elsewhere: three functions, each of which raises SchedulerAway when it
    cannot tell, and the text that ``submit`` sends.
    """

    def script(self, request: PilotRequest) -> str:
        """Return what a pilot's job runs; asks nobody."""

    def jobs(self, prefix: str) -> Sequence[Pilot]:
        """Return the pilots whose name begins with ``prefix``, ended ones as long as it knows."""

    def submit(self, request: PilotRequest) -> str:
        """Send a pilot and return its job id.  Raises PilotRefused where it can never start."""

    def recall(self, job_ids: Sequence[str]) -> None:
        """Take back those of them that have not started; others are left alone."""


@runtime_checkable
class Examinable(Protocol):
    """A scheduler that can say beforehand what it would do with a pilot."""

    def examine(self, request: PilotRequest) -> Iterator[tuple[Literal["ok", "warning"], str, str]]:
        """Yield level, finding and fix; nothing is sent.  Raises as ``submit`` does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerInfo:
    """What is known of a scheduler before it is imported."""

    description: str


SCHEDULERS = Registry(__name__, "scheduler", SchedulerInfo, noun="scheduler")
scheduler = SCHEDULERS.declare


def pilot_name(prefix: str, gpus: int) -> str:
    """Return a new name; a dispatcher finds it again by its prefix.

    >>> pilot_name("lsqctl-a1-gpu-", 2).startswith("lsqctl-a1-gpu-g2-")
    True
    """
    return f"{prefix}g{gpus}-{secrets.token_hex(4)}"


def call_program(words: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a scheduler's program, ``text`` its input, without what it need not know of us.

    Raises FileNotFoundError where it is not installed, TimeoutExpired after TIMEOUT_SECONDS.
    """
    return subprocess.run(
        words,
        input=text,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        env=scheduler_environment(),
        check=False,
    )
