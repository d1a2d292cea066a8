"""Where a run stands, in plain values: what a checkpoint's ``state.json`` holds."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lsqctl.training.evaluate import Counts


@dataclass(slots=True)
class Tally:
    """One counted evaluation and the step it belongs to; ``hits`` in base64."""

    n_correct: int
    n_correct_top5: int | None
    n_total: int
    hits: str
    step: int

    @classmethod
    def of(cls, counts: Counts, step: int) -> Tally:
        """Return the tally of an evaluation at ``step``."""
        hits = base64.b64encode(counts.hits).decode()
        return cls(counts.n_correct, counts.n_correct_top5, counts.n_total, hits, step)

    @property
    def hit_bytes(self) -> bytes:
        """One bit an image, most significant first."""
        return base64.b64decode(self.hits)


@dataclass(slots=True)
class Cursor:
    """How far a run is, and the sums it has begun.

    ``batch`` counts the training batches done of ``epoch``; ``evaluation_pending`` says that an
    epoch was trained and not yet evaluated. ``window`` holds (loss, right, images) of the steps
    since the last train metric, ``sums`` those of the epoch before them. ``digests`` names the
    bytes of the first weights and the teacher; ``circumstances`` those of the last attempt.
    ``clamped`` (by quantizer), ``clipped`` and ``skipped`` count within the epoch,
    ``skipped_before`` in those before it. ``last`` and ``best`` are of the raw weights, the others
    as they say.
    """

    recipe: str
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
    fp32: Tally | None = None
    last: Tally | None = None
    best: Tally | None = None
    ema_last: Tally | None = None
    ema_best: Tally | None = None
    bn_last: Tally | None = None
    digests: dict[str, str] = field(default_factory=dict)
    circumstances: dict[str, Any] = field(default_factory=dict)
    deterministic: str = "bitwise"

    def keep(self, tallies: Mapping[str, Tally], *, judged_by: str) -> None:
        """Keep the tallies of an epoch, by variant; the best epoch is the first of equals.

        It is one epoch for all variants, so that one checkpoint holds what they are counted from:
        the best by ``judged_by``, or by the raw weights where that is not counted every epoch.
        """
        self.last, self.ema_last = tallies["raw"], tallies.get("ema")
        self.bn_last = tallies.get("bn")
        by_average = judged_by == "ema"
        new, before = (self.ema_last, self.ema_best) if by_average else (self.last, self.best)
        if new and (before is None or new.n_correct > before.n_correct):
            self.best, self.ema_best = self.last, self.ema_last

    def to_state(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Cursor:
        """Return the cursor that ``to_state`` described."""
        values = dict(state)
        for name in ("fp32", "last", "best", "ema_last", "ema_best", "bn_last"):
            values[name] = Tally(**values[name]) if values.get(name) else None
        values["window"] = [(loss, right, count) for loss, right, count in values["window"]]
        values["sums"] = tuple(values["sums"])
        if isinstance(values["clamped"], int):  # before 0.2: only their sum was kept
            values["clamped"] = {"": values["clamped"]} if values["clamped"] else {}
        return cls(**values)
