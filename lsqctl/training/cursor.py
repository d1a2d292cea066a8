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
    since the last train metric, ``sums`` those of the epoch before them, ``clamped`` how often each
    quantizer's step was clamped in it. ``digests`` names the
    bytes of the first weights and the teacher; ``circumstances`` those of the last attempt.
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
    fp32: Tally | None = None
    last: Tally | None = None
    best: Tally | None = None
    digests: dict[str, str] = field(default_factory=dict)
    circumstances: dict[str, Any] = field(default_factory=dict)
    deterministic: str = "bitwise"

    def to_state(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Cursor:
        """Return the cursor that ``to_state`` described."""
        values = dict(state)
        for name in ("fp32", "last", "best"):
            values[name] = Tally(**values[name]) if values[name] else None
        values["window"] = [(loss, right, count) for loss, right, count in values["window"]]
        values["sums"] = tuple(values["sums"])
        if isinstance(values["clamped"], int):  # before 0.2: only their sum was kept
            values["clamped"] = {"": values["clamped"]} if values["clamped"] else {}
        return cls(**values)
