"""What training yields (TrainingEvent), and what is read back of it.  Frozen values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from lsqctl.run import LOCAL, RunState


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured number. ``step`` counts optimizer steps done."""

    name: str
    split: str
    step: int
    value: float


@dataclass(frozen=True, slots=True)
class QuantizerStats:
    """The state of one quantizer at the end of an epoch; ``lsqctl.quant.stats`` defines each.

    ``name`` is the quantizer's (``layer1.0.conv1.weight_quantizer``), ``kind`` says what it
    quantizes. ``epoch`` counts from 1 and ``step`` optimizer steps done; both are 0 right after
    calibration. ``step_size`` is the mean over channels, with the least and the largest beside it;
    all three are equal for one step a tensor. ``clip_fraction`` and ``oscillation_rate`` lie in
    0..1; ``codes_used`` counts of ``n_codes``, among ``n_values`` values measured;
    ``clamped`` counts in this epoch. None where there is nothing to measure: no gradient yet, an
    input, or too few updates.
    """

    name: str
    kind: Literal["weight", "input"]
    epoch: int
    step: int
    bits: int
    signed: bool
    step_size: float
    step_size_min: float
    step_size_max: float
    clip_fraction: float
    codes_used: int
    n_codes: int
    n_values: int
    r_ratio: float | None = None
    oscillation_rate: float | None = None
    clamped: int = 0

    @property
    def layer(self) -> str:
        """The name of the layer that it belongs to."""
        return self.name.rpartition(".")[0]


Measurement = Metric | QuantizerStats
"""What training measures: written in batches, cut back on resume, spooled meanwhile."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an attempt is; shown live, kept only as the latest."""

    step: int
    total_steps: int
    epoch: int
    epochs: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """The first event of an attempt: it goes on from this step; None means from scratch.

    Whatever an earlier attempt recorded after that step is to be deleted.
    """

    step: int | None


@dataclass(frozen=True, slots=True)
class TrainingStarted:
    """Data, network and teacher are there, the step sizes known: this attempt trains from a step.

    What came before is no part of the time that steps take.
    """

    step: int


@dataclass(frozen=True, slots=True)
class LogMessage:
    """A sentence for the log and the run's record, e.g. a bad checkpoint that was passed over."""

    text: str


@dataclass(frozen=True, slots=True)
class Compiled:
    """Whether this attempt trains with a compiled network, or with channels laid out last.

    ``precision`` is that of its layers: fp32, bf16 or fp16; ``imitated``: bf16 that the device is
    not known to multiply itself.
    """

    compiled: bool
    channels_last: bool = False
    precision: str = "fp32"
    imitated: bool = False


@dataclass(frozen=True, slots=True)
class KernelUse:
    """What this attempt's quantized layers compute with: ``integer`` or ``float``.

    ``float_layers`` says by layer why it computes in floats though the others do in integers.
    ``evaluation`` is ``integer`` where the network is counted by docs/arithmetic.md, else
    ``trained``.
    """

    kernel: str
    float_layers: Mapping[str, str]
    evaluation: str = "trained"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk. ``sha256`` is of its manifest, which holds all the others.

    ``replaces`` are folders that are removed once this one is recorded.
    """

    step: int
    epoch: int
    directory: Path
    sha256: str
    size_bytes: int
    best: bool = False
    replaces: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One counted evaluation: a row of the results, keyed (variant, selection).

    ``variant`` is raw, ema, bn or deployed; ``selection`` is last or best epoch (the latter
    selected on the test set). ``hits`` holds one bit an image in dataset order, most significant
    bit first; ``loss`` is the mean cross entropy, in nats, None where an older version counted.
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
    loss: float | None = None


COST_FIELDS = ("params", "size_bytes", "naive_bytes", "macs", "bops")
"""The fields of a result that say what its network costs."""


@dataclass(frozen=True)
class ResultValues:
    """What a result says of its run beside the counts: a field of ``Result`` and ``BoardRow``, and
    a column of the table of results, each.

    Sizes in bytes, ``macs`` and ``bops`` per image, ``train_seconds`` summed over attempts.
    ``fp32_n_correct`` of ``fp32_n_total`` was measured before quantization, from the same
    weights; None for a run that starts from none or is not quantized. A run that failed has the
    first four and ``notes``; of its other numbers none.
    """

    __slots__ = ()  # what derives from it has the slots

    dataset: str
    arch: str
    weight_bits: int
    act_bits: int
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
    data_digest: str = ""
    preprocessing: str = ""
    fp32_n_correct: int | None = None
    fp32_n_total: int | None = None
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Result(ResultValues):
    """What a finished run puts on the board: its evaluations, one of them the headline."""

    evaluations: tuple[Evaluation, ...] = ()


@dataclass(frozen=True, slots=True)
class Paused:
    """The last event of an attempt that was to come no further; its checkpoint was yielded."""

    epoch: int


TrainingEvent = (
    Resumed
    | TrainingStarted
    | Compiled
    | KernelUse
    | Measurement
    | Progress
    | LogMessage
    | Checkpoint
    | Paused
    | Result
)


DEPLOYED = "deployed"
"""The variant that a file of integers gave, run by itself; never a headline."""


@dataclass(frozen=True, slots=True)
class DeployedResult:
    """What a deployed file answers over the evaluation split, and how near it is to its reference.

    ``exactness`` is exact, settled (biases were moved off ties, and then it is exact) or the rate
    of differing codes; ``file_bytes`` is the file's own size.
    """

    evaluation: Evaluation
    exactness: str
    file_bytes: int


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


@dataclass(frozen=True)
class RunIdentity:
    """What a run is known by from its submission on."""

    __slots__ = ()

    run_id: str
    name: str
    state: RunState
    seed: int
    recipe_sha256: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class BoardRow(ResultValues, RunIdentity):
    """One result of one run for the leaderboard; without counts for a run that ended without one.

    ``n_correct_last`` and ``n_correct_best`` are the counts of the same variant at the last and
    at the best epoch. ``origin``, ``user`` and ``partial`` are the
    run's; ``chain`` has the runs that it goes on from, the first one first; ``mixed`` says whether
    its overrides give layers bits of their own.
    """

    code_commit: str = ""
    code_dirty: bool | None = None
    variant: str = "raw"
    selection: str = "last"
    headline: bool = True
    n_correct: int | None = None
    n_correct_top5: int | None = None
    n_total: int | None = None
    loss: float | None = None
    verified: bool | None = None
    checkpoint_sha256: str = ""
    checkpoint_path: str = ""
    n_correct_last: int | None = None
    n_correct_best: int | None = None
    n_correct_deployed: int | None = None
    exactness: str | None = None
    file_bytes: int | None = None
    origin: str = LOCAL
    user: str = ""
    partial: bool = False
    chain: str = ""
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class PerImageResult:
    """The headline result of one succeeded run, image by image, to compare it with another's.

    ``hits`` as in Evaluation. ``cell`` tells runs of one sweep apart that differ in more than the
    seed; it is empty where nothing but the seed does.
    """

    run_id: str
    name: str
    seed: int
    recipe_sha256: str
    created_at: datetime
    dataset: str
    split: str
    data_digest: str
    preprocessing: str
    selection: str
    n_correct: int
    n_total: int
    epochs: int
    hits: bytes
    cell: str = ""
