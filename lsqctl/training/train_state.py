"""The training state in plain values (epoch, step, counts): a checkpoint's ``state.json``."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from lsqctl.run import JsonObject
from lsqctl.training.evaluation import EvalCounts


@dataclass(slots=True)
class EvalRecord:
    """One counted evaluation and the step it belongs to; ``hits`` in base64."""

    n_correct: int
    n_correct_top5: int | None
    n_total: int
    hits: str
    step: int
    loss: float | None = None  # None in checkpoints of an older version

    @classmethod
    def from_counts(cls, counts: EvalCounts, step: int) -> EvalRecord:
        """Return the record of an evaluation at ``step``."""
        hits = base64.b64encode(counts.hits).decode()
        return cls(counts.n_correct, counts.n_correct_top5, counts.n_total, hits, step, counts.loss)

    @property
    def decoded_hits(self) -> bytes:
        """One bit an image, most significant first."""
        return base64.b64decode(self.hits)


# Fields that checkpoints hold under the name of an earlier version, so that its runs go on.
_STORED_KEYS = {"recipe_hash": "recipe", "input_digests": "digests", "environment": "circumstances"}


OLDER_ENVIRONMENT: JsonObject = {
    "compile": False,
    "channels_last": False,
    "kernel": "float",
    "evaluation": "trained",
}
"""What checkpoints of before do not say of their environment."""


@dataclass(slots=True)
class TrainState:
    """How far a run is, and the sums it has begun.

    ``batch`` counts training batches done of ``epoch``; ``evaluation_pending`` says that an
    epoch was trained and not yet evaluated. ``window`` holds (loss, correct, images) of the steps
    since the last train metric, ``sums`` of the epoch before them. ``input_digests`` names the
    bytes of the first weights and the teacher; ``environment`` is the last attempt's.
    ``new_head`` says which classifier of the first weights was replaced. ``teacher_views`` holds
    the digests of the teacher's cached logits, by view. ``start_epoch`` and ``start_step`` are
    those that the run which this one extends had reached.
    ``clamped`` (by quantizer), ``clipped`` and ``skipped`` count within the epoch,
    ``skipped_before`` in those before it. ``last`` and ``best`` are of the raw weights, the others
    as they say. ``stop_best`` is the best value so far of what ``train.stop`` watches, and
    ``stale_epochs`` counts the evaluations since.
    """

    recipe_hash: str
    epoch: int = 0
    batch: int = 0
    step: int = 0
    evaluation_pending: bool = False
    window: list[tuple[float, int, int]] = field(default_factory=list)
    sums: tuple[float, int, int] = (0.0, 0, 0)
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    clamped: dict[str, int] = field(default_factory=dict)
    clipped: int = 0
    skipped: int = 0
    skipped_before: int = 0
    fp32: EvalRecord | None = None
    last: EvalRecord | None = None
    best: EvalRecord | None = None
    ema_last: EvalRecord | None = None
    ema_best: EvalRecord | None = None
    bn_last: EvalRecord | None = None
    input_digests: dict[str, str] = field(default_factory=dict)
    environment: JsonObject = field(default_factory=dict)
    deterministic: str = "bitwise"
    new_head: str = ""
    stop_best: float | None = None
    stale_epochs: int = 0
    teacher_views: dict[str, str] = field(default_factory=dict)
    start_epoch: int = 0
    start_step: int = 0

    def record_eval(self, records: Mapping[str, EvalRecord], *, selected_by: str) -> None:
        """Record the evaluations of an epoch, by variant; the best epoch is the first of equals.

        It is one epoch for all variants, so that one checkpoint holds what they are counted from:
        the best by ``selected_by``, or by the raw weights where that is not counted every epoch.
        """
        self.last, self.ema_last = records["raw"], records.get("ema")
        self.bn_last = records.get("bn")
        by_ema = selected_by == "ema"
        latest, best_so_far = (self.ema_last, self.ema_best) if by_ema else (self.last, self.best)
        if latest and (best_so_far is None or latest.n_correct > best_so_far.n_correct):
            self.best, self.ema_best = self.last, self.ema_last

    def record_for_stop(self, value: float, *, larger_is_better: bool, min_delta: float) -> None:
        """Count an evaluation for ``train.stop``; what is no number has not improved."""
        if self.stop_best is None:
            improved = not math.isnan(value)
        else:
            gain = value - self.stop_best
            improved = (gain if larger_is_better else -gain) > min_delta
        if improved:
            self.stop_best, self.stale_epochs = value, 0
        else:
            self.stale_epochs += 1

    def to_state(self) -> JsonObject:
        """Return plain values for JSON, under the keys that checkpoints have always had."""
        return {_STORED_KEYS.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_state(cls, state: JsonObject) -> TrainState:
        """Return the state that ``to_state`` described."""
        names = {key: name for name, key in _STORED_KEYS.items()}
        values = {names.get(key, key): value for key, value in state.items()}
        for name in ("fp32", "last", "best", "ema_last", "ema_best", "bn_last"):
            values[name] = EvalRecord(**values[name]) if values.get(name) else None
        values["window"] = [(loss, n_correct, count) for loss, n_correct, count in values["window"]]
        values["sums"] = tuple(values["sums"])
        if isinstance(values["clamped"], int):  # before 0.2: only their sum was kept
            values["clamped"] = {"": values["clamped"]} if values["clamped"] else {}
        return cls(**values)
