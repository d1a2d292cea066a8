"""What a run is: states, end reasons, leases, and how one is enqueued and claimed.  No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from lsqctl.errors import UsageError

# What JSON keeps: a recipe, an environment. Its keys say what their values are.
JsonObject: TypeAlias = dict[str, Any]


class RunState(StrEnum):
    """The state of a run."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


# All legal transitions. ``waiting`` holds a run whose parent is unfinished, and one that waits at a
# rung for the other cells of its sweep; ``retry`` takes failed and cancelled back into the queue
# (the same run, a new attempt).
TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    RunState.WAITING: frozenset({RunState.QUEUED, RunState.FAILED, RunState.CANCELLED}),
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.CANCELLED}),
    RunState.RUNNING: frozenset(set(RunState) - {RunState.RUNNING}),
    RunState.SUCCEEDED: frozenset(),
    RunState.FAILED: frozenset({RunState.QUEUED, RunState.WAITING}),
    RunState.CANCELLED: frozenset({RunState.QUEUED, RunState.WAITING}),
}

ACTIVE_STATES = frozenset({RunState.WAITING, RunState.QUEUED, RunState.RUNNING})


# No vowels, so that no id is a word; no 0, 1 or l, which are taken for O, I and 1.
ID_ALPHABET = "23456789bcdfghjkmnpqrstvwxz"
ID_LENGTH = 8
RUN_ID = rf"[{ID_ALPHABET}]{{{ID_LENGTH}}}"  # a regular expression


class EndReason(StrEnum):
    """Why an attempt, or a run, ended."""

    COMPLETED = "completed"
    PREEMPTED = "preempted"  # asked to stop; saved and requeued, no attempt spent
    WORKER_LOST = "worker_lost"  # its lease ran out
    INFRA = "infra"  # disk, database, driver, a worker of the data loader
    OOM = "oom"
    DIVERGED = "diverged"
    DATA = "data"  # a dataset or weights file: missing, damaged, changed, does not fit
    RECIPE = "recipe"
    CODE = "code"
    PARENT = "parent"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    RUNG = "rung"  # it waits for the other cells of its sweep
    STOPPED = "stopped"  # it was not among those that went on from a rung


# An attempt that ends so is tried again, until MAX_CONSECUTIVE_FAILURES made no progress.
RETRYABLE_REASONS = frozenset({EndReason.WORKER_LOST, EndReason.INFRA})
MAX_CONSECUTIVE_FAILURES = 3

# What a trainer's exit code means to its worker; anything else is EndReason.CODE.
EXIT_REASONS: Mapping[int, EndReason] = {
    0: EndReason.COMPLETED,
    65: EndReason.DATA,
    74: EndReason.INFRA,
    75: EndReason.PREEMPTED,
    76: EndReason.OOM,
    77: EndReason.DIVERGED,
    78: EndReason.RECIPE,
    79: EndReason.RUNG,
}


EXTENSION_ROLE = "extension.run"  # of the run that another one goes on from

# Who trained a run: a worker of ours, or a loop of somebody's own (``lsqctl.record``).
LOCAL, RECORDED = "local", "recorded"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one attempt to write to a run; ``fence`` proves it."""

    run_id: str
    attempt: int
    fence: str


@dataclass(frozen=True, slots=True)
class Run:
    """One recipe being executed to one result, as lists show it.

    ``lease_expired`` says that its worker has not renewed in time, though nobody has reaped it.
    ``top1`` is the latest on the evaluation split, in percent. ``origin`` is ``recorded`` for what
    a loop of somebody's own trained, ``user`` is who submitted it, empty where nobody knows.
    """

    id: str
    name: str
    state: RunState
    seed: int
    recipe_sha256: str
    run_sha256: str
    created_at: datetime
    reason: EndReason | None = None
    message: str = ""
    sweep: str | None = None
    attempt: int = 0
    worker: str | None = None
    priority: int = 0
    held: bool = False
    cancel_requested: bool = False
    lease_expired: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    epochs: int = 0
    top1: float | None = None
    gpus: int = 1
    time_limit_seconds: float | None = None
    note: str = ""
    origin: str = LOCAL
    user: str = ""

    @property
    def ended_well(self) -> bool:
        """Whether it succeeded, or was stopped at a rung of its sweep, which is no failure."""
        return self.state is RunState.SUCCEEDED or self.reason is EndReason.STOPPED


@dataclass(frozen=True, slots=True)
class Halving:
    """How the cells of a sweep fall out: at each rung one in ``factor`` goes on, rounded up.

    ``rungs`` are the epochs, ascending, at which ``metric`` of the evaluation split is compared.
    """

    metric: str
    factor: int
    rungs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a run by one worker.  ``reason`` is None while it lives."""

    run_id: str
    number: int
    fence: str
    worker: str
    started_at: datetime
    finished_at: datetime | None
    reason: EndReason | None
    message: str
    environment: JsonObject
    resumed_step: int | None


@dataclass(frozen=True, slots=True)
class RunDetail:
    """All that is known of one run. ``parents`` maps a role to the run id it waits for."""

    run: Run
    recipe: JsonObject
    provenance: JsonObject
    parents: Mapping[str, str]
    attempts: tuple[Attempt, ...]

    @property
    def environment(self) -> JsonObject:
        """What the last attempt ran in: device, threads, kernel; nothing before there is one."""
        return self.attempts[-1].environment if self.attempts else {}

    def host_of(self, number: int | None = None) -> str:
        """Return the machine of an attempt, by default the last: its files lie there.

        Empty where it is not known.
        """
        hosts = [
            str(one.environment.get("host", ""))
            for one in self.attempts
            if number in (None, one.number)
        ]
        return hosts[-1] if hosts else ""

    def recorded_of(self) -> str:
        """Return which loop a recorded run is of: its script and its machine, as far as known."""
        script = self.provenance.get("script")
        loop = str(script["path"]) if isinstance(script, dict) else "a loop"
        host = self.host_of()
        return f"{loop} on {host}" if host else loop


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be enqueued: the complete recipe and all that is known at submit.

    ``parents`` maps a role (``model.weights`` or ``distill.teacher``) to the ``run_sha256`` of
    the run it waits for, which is in the store already or stands earlier in the same call.
    ``cell`` is its name within a sweep. ``gpus`` above 1 reserves so many whole GPUs of one worker;
    ``time_limit_seconds`` ends an attempt that runs longer. ``explicit`` is false for a parent that
    is only needed: it is reused where it is there, whatever ``if_exists`` says of the others.
    ``tags`` are given to the run, also to one that is there already. ``user`` is who submits it.
    ``partial`` says that its recipe takes a part of the images.
    """

    name: str
    recipe: JsonObject
    recipe_sha256: str
    run_sha256: str
    seed: int
    provenance: JsonObject
    parents: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    epochs: int = 0
    sweep: str | None = None
    cell: str = ""
    gpus: int = 1
    time_limit_seconds: float | None = None
    held: bool = False
    explicit: bool = True
    tags: tuple[str, ...] = ()
    user: str = ""
    origin: str = LOCAL
    partial: bool = False


_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")


def check_tag(tag: str) -> None:
    """Raise UsageError for what could not be typed without quotes, or be told from an option."""
    if not _TAG.fullmatch(tag):
        raise UsageError(
            f"`{tag}` cannot be a tag: a letter or digit, then letters, digits and . _ - /, "
            "64 at most"
        )


IfExists = Literal["skip", "rerun", "error"]


class EnqueueOutcome(StrEnum):
    """What became of a run that was enqueued."""

    QUEUED = "queued"
    WAITING = "waiting"
    EXISTS = "exists"  # unfinished or succeeded already; left alone
    RETRIED = "retried"  # had failed or been cancelled; requeued


@dataclass(frozen=True, slots=True)
class RunStatus:
    """What `wait` needs to know of a run."""

    id: str
    name: str
    seed: int
    state: RunState
    reason: EndReason | None
    message: str


@dataclass(frozen=True, slots=True)
class EnqueuedRun:
    """One run of a submission and what became of it."""

    run: Run
    outcome: EnqueueOutcome


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker gets when it claims.

    ``pinned_environment`` (device kind, threads, compile, kernel) was decided at the run's first
    attempt; empty means that this attempt decides them.
    """

    run: Run
    lease: Lease
    provenance: JsonObject
    pinned_environment: JsonObject


@dataclass(frozen=True, slots=True)
class Renewal:
    """The answer to a heartbeat that still owns its run."""

    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Who a worker is: a pid alone is reused, so its start time and the boot's id go with it."""

    id: str
    name: str
    host: str
    pid: int
    process_started: float
    boot_id: str
    slots: int
    device: str


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One thing that happened to a run: the history that a fault is explained from."""

    id: int
    run_id: str
    kind: str
    from_state: RunState | None
    to_state: RunState | None
    attempt: int
    fence: str
    detail: str
    at: datetime
