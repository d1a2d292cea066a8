"""What every part of the Store shares: the database, the length of a lease, and a clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lsqctl.store.database import Database


@dataclass
class StorePart:
    """``_clock`` gives monotonic seconds of this process, and is injected by tests."""

    _database: Database
    lease_seconds: float
    _clock: Callable[[], float]
