"""How long a worker works, and how eagerly."""

from __future__ import annotations

from dataclasses import dataclass

CLAIM_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How long a supervisor works, and how often it asks an empty queue."""

    until_empty: bool = False
    time_limit_seconds: float | None = None  # then save, requeue, and end in order
    exclusive_name: bool = False  # refuse to work when a live worker has our name
    poll_seconds: float = CLAIM_POLL_SECONDS


DEFAULT_OPTIONS = WorkerOptions()
