"""What a run is: its states, its end reasons, and the facts that an attempt reports.  No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal


class RunState(StrEnum):
    """Where a run stands."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


# The only moves there are. ``waiting`` holds a run whose parent is unfinished; ``retry`` takes
# failed and cancelled back into the queue (the same run, a new attempt).
LEGAL: Mapping[RunState, frozenset[RunState]] = {
    RunState.WAITING: frozenset({RunState.QUEUED, RunState.FAILED, RunState.CANCELLED}),
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.CANCELLED}),
    RunState.RUNNING: frozenset(
        {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.QUEUED}
    ),
    RunState.SUCCEEDED: frozenset(),
    RunState.FAILED: frozenset({RunState.QUEUED, RunState.WAITING}),
    RunState.CANCELLED: frozenset({RunState.QUEUED, RunState.WAITING}),
}

UNFINISHED = frozenset({RunState.WAITING, RunState.QUEUED, RunState.RUNNING})


class EndReason(StrEnum):
    """Why an attempt, or a run, ended."""

    COMPLETED = "completed"
    PREEMPTED = "preempted"  # asked to stop; saved and put back, no attempt spent
    LOST = "lost"  # its lease ran out
    INFRA = "infra"  # disk, database, driver, a worker of the data loader
    OOM = "oom"
    DIVERGED = "diverged"
    RECIPE = "recipe"
    CODE = "code"
    PARENT = "parent"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


# An attempt that ends so is tried again, until MAX_FAILURES of them made no progress.
RETRIED = frozenset({EndReason.LOST, EndReason.INFRA})
MAX_FAILURES = 3

# What a trainer's exit code means to its worker; anything else is EndReason.CODE.
EXIT_REASONS: Mapping[int, EndReason] = {
    0: EndReason.COMPLETED,
    74: EndReason.INFRA,
    75: EndReason.PREEMPTED,
    76: EndReason.OOM,
    77: EndReason.DIVERGED,
    78: EndReason.RECIPE,
}


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one attempt to write to a run; ``fence`` proves it."""

    run_id: str
    attempt: int
    fence: str


@dataclass(frozen=True, slots=True)
class Run:
    """One recipe being executed to one result, as lists show it.

    ``lease_lapsed`` says that its worker has not renewed in time, though nobody has reaped it.
    ``top1`` is the latest on the evaluation split, in percent.
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
    lease_lapsed: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    epochs: int = 0
    top1: float | None = None


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
    circumstances: Mapping[str, Any]
    resumed_step: int | None


@dataclass(frozen=True, slots=True)
class RunDetail:
    """All that is known of one run. ``parents`` maps a role to the run id it waits for."""

    run: Run
    recipe: Mapping[str, Any]
    snapshot: Mapping[str, Any]
    parents: Mapping[str, str]
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be enqueued: the complete recipe and all that is known at submit.

    ``parents`` maps a role (``model.weights`` or ``distill.teacher``) to the ``run_sha256`` of
    the run it waits for, which is in the store already or stands earlier in the same call.
    ``cell`` is its name within a sweep.
    """

    name: str
    recipe: Mapping[str, Any]
    recipe_sha256: str
    run_sha256: str
    seed: int
    snapshot: Mapping[str, Any]
    parents: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    epochs: int = 0
    sweep: str | None = None
    cell: str = ""


IfExists = Literal["skip", "rerun", "error"]


class Outcome(StrEnum):
    """What became of a run that was enqueued."""

    QUEUED = "queued"
    WAITING = "waiting"
    EXISTS = "exists"  # unfinished or succeeded already; left alone
    RETRIED = "retried"  # had failed or been cancelled; put back


@dataclass(frozen=True, slots=True)
class Enqueued:
    """One run of a submission and what became of it."""

    run: Run
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class SweepCell:
    """One cell of a sweep and the run that stands for it; None when it was removed."""

    sweep: str
    cell: str
    seed: int
    run: Run | None


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker gets when it claims.

    ``circumstances`` (device kind, threads, compile) were decided at the run's first attempt;
    empty means that this attempt decides them. ``parents`` maps a role to a run id.
    """

    run: Run
    lease: Lease
    recipe: Mapping[str, Any]
    snapshot: Mapping[str, Any]
    circumstances: Mapping[str, Any]
    parents: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Renewal:
    """The answer to a heartbeat that still owns its run."""

    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured number. ``step`` counts optimizer steps done."""

    name: str
    split: str
    step: int
    value: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an attempt is; shown live, kept only as the latest."""

    step: int
    total_steps: int
    epoch: int
    epochs: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """The first fact of an attempt: it goes on from this step; None means from scratch.

    Whatever an earlier attempt recorded after that step is to be forgotten.
    """

    step: int | None


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the log and the run's record, e.g. a bad checkpoint that was passed over."""

    text: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk. ``sha256`` is of its manifest, which holds all the others."""

    step: int
    epoch: int
    directory: Path
    sha256: str
    size_bytes: int
    best: bool = False


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One counted evaluation: a row of the results, keyed (variant, selection).

    ``variant`` is raw, ema or bn; ``selection`` is last or best epoch (the latter selected on the
    test set). ``hits`` holds one bit an image in dataset order, most significant bit first.
    """

    variant: str
    selection: str
    headline: bool
    n_correct: int
    n_correct_top5: int | None
    n_total: int
    hits: bytes
    step: int
    checkpoint: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished run puts on the board.

    Sizes in bytes, ``macs`` and ``bops`` per image, ``train_seconds`` summed over attempts.
    ``fp32_n_correct`` of ``fp32_n_total`` was measured before quantization, from the same
    weights; None for a run that starts from none or is not quantized.
    """

    evaluations: tuple[Evaluation, ...]
    dataset: str
    split: str
    arch: str
    method: str
    weight_bits: int
    act_bits: int
    first_last_bits: str
    granularity: str
    params: int
    size_bytes: int
    naive_bytes: int
    macs: int
    bops: int
    epochs: int
    train_seconds: float
    peak_mem_bytes: int
    device: str
    torch: str
    precision: str
    deterministic: str
    data_digest: str
    preprocessing: str
    fp32_n_correct: int | None = None
    fp32_n_total: int | None = None
    notes: str = ""


Fact = Resumed | Metric | Progress | Note | Checkpoint | Result


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Who a worker is: a pid alone is reused, so its start time and the boot's id go with it."""

    id: str
    name: str
    host: str
    pid: int
    started: float
    boot_id: str
    slots: int
    device: str


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint as the store knows it; its bytes may be gone or damaged."""

    run_id: str
    step: int
    epoch: int
    directory: str
    sha256: str
    size_bytes: int
    best: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """The last and the best value of one metric of a run."""

    name: str
    split: str
    last: float
    last_step: int
    best: float
    best_step: int


@dataclass(frozen=True, slots=True)
class Event:
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


@dataclass(frozen=True, slots=True)
class BoardRow:
    """One result of one run for the leaderboard; without counts for a run that ended without one.

    ``weight_bits`` … ``deterministic`` are as in ``Result``.
    """

    run_id: str
    name: str
    state: RunState
    seed: int
    recipe_sha256: str
    created_at: datetime
    dataset: str
    arch: str
    weight_bits: int
    act_bits: int
    variant: str = "raw"
    selection: str = "last"
    headline: bool = True
    n_correct: int | None = None
    n_correct_top5: int | None = None
    n_total: int | None = None
    fp32_n_correct: int | None = None
    fp32_n_total: int | None = None
    split: str = ""
    method: str = ""
    first_last_bits: str = ""
    granularity: str = ""
    params: int | None = None
    size_bytes: int | None = None
    naive_bytes: int | None = None
    macs: int | None = None
    bops: int | None = None
    epochs: int | None = None
    train_seconds: float | None = None
    peak_mem_bytes: int | None = None
    device: str = ""
    torch: str = ""
    precision: str = ""
    deterministic: str = ""
    verified: bool | None = None
    checkpoint_sha256: str = ""
    checkpoint_path: str = ""
    code_commit: str = ""
    code_dirty: bool | None = None
    notes: str = ""
