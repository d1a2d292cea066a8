"""Retry while the database is away: pauses that grow, spread at random, and have an end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from lsqctl.errors import StoreError

T = TypeVar("T")

_FIRST_DELAY_SECONDS = 0.2
_MAX_DELAY_SECONDS = 30.0


def backoff_delay(failures: int, *, max_delay: float = _MAX_DELAY_SECONDS) -> float:
    """Return the seconds to wait after so many failures in a row: doubled each time, ± a half."""
    doubled: float = min(max_delay, _FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 30))
    return doubled * random.uniform(0.5, 1.5)  # noqa: S311 (jitter)


def retry(
    work: Callable[[], T],
    *,
    max_seconds: float,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return ``work()``, tried again while it raises StoreError.

    After ``max_seconds``, or a quarter once ``stop()`` is true, the last StoreError is raised.
    """
    deadline, failures, shortened = clock() + max_seconds, 0, False
    while True:
        try:
            return work()
        except StoreError as error:
            failures += 1
            if not shortened and stop():
                deadline, shortened = min(deadline, clock() + max_seconds / 4), True
            delay = backoff_delay(failures, max_delay=max_seconds / 8)
            if clock() + delay > deadline:
                raise
            if failures == 1:
                print(f"lsqctl: trying again: {error}", flush=True)
        sleep(delay)
