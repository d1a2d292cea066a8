"""One run's result with every image's hit, as comparisons need it.  A frozen value, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


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
    hits: bytes
    cell: str = ""
