"""Wait for a database that is away: some leases long, a quarter of that once a stop is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from lsqctl import retry
from lsqctl.errors import StoreError, UnusableDatabase
from lsqctl.worker.messages import log_line

T = TypeVar("T")

RETRY_LEASES = 4  # how long to wait for a database; the supervisor, who has the lease, less long


def retry_store(
    work: Callable[[], T],
    *,
    lease_seconds: float,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return ``work()``, tried again while it raises StoreError.

    After RETRY_LEASES leases, or a quarter once ``stop()`` is true, the last StoreError is raised;
    UnusableDatabase at once.
    """
    max_seconds = RETRY_LEASES * lease_seconds
    deadlines = [clock() + max_seconds]

    def delay_after(error: StoreError, failures: int) -> float | None:
        if isinstance(error, UnusableDatabase):
            return None
        if len(deadlines) == 1 and stop():
            deadlines.append(clock() + max_seconds / 4)
        delay = retry.backoff_delay(failures, max_delay=max_seconds / 8)
        if clock() + delay > min(deadlines):
            return None
        if failures == 1:
            log_line(f"trying again: {error}")
        return delay

    return retry.retry(work, StoreError, delay_after, sleep=sleep)
