"""The one loop that tries again: after which errors, and how much later, its caller decides."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

_FIRST_DELAY_SECONDS = 0.2
_MAX_DELAY_SECONDS = 30.0


def retry(
    work: Callable[[], T],
    error_type: type[E],
    delay_after: Callable[[E, int], float | None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return ``work()``, tried again after each ``error_type`` for as long as there is a delay.

    ``delay_after(error, failures)`` gives the seconds to wait after so many failures, the first
    is 1; at None the error is raised.
    """
    failures = 0
    while True:
        try:
            return work()
        except error_type as error:
            failures += 1
            delay = delay_after(error, failures)
            if delay is None:
                raise
        sleep(delay)


def backoff_delay(failures: int, *, max_delay: float = _MAX_DELAY_SECONDS) -> float:
    """Return the seconds to wait after so many failures in a row: doubled each time, ± a half."""
    doubled: float = min(max_delay, _FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 30))
    return doubled * jitter(0.5, 1.5)


def jitter(least: float, most: float) -> float:
    """Return a number between the two, at random, so that those who wait do not meet again."""
    return random.uniform(least, most)  # noqa: S311 (no secret)
