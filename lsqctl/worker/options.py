"""How long a worker works, and how eagerly."""

from __future__ import annotations

from dataclasses import dataclass

IDLE_CLAIM_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """How long a supervisor works, and how often it asks an empty queue."""

    until_empty: bool = False
    time_limit_seconds: float | None = None  # then save, put back, and end in order
    own_name: bool = False  # refuse to work when a live worker has our name
    poll_seconds: float = IDLE_CLAIM_SECONDS


DEFAULTS = Options()
