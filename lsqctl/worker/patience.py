"""Wait for a database that is away: pauses that grow, spread at random, and have an end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from lsqctl.errors import StoreError

T = TypeVar("T")

_FIRST_SECONDS = 0.2
_LONGEST_SECONDS = 30.0


def pause_after(failures: int, *, longest: float = _LONGEST_SECONDS) -> float:
    """Return the seconds to wait after so many failures in a row: doubled each time, ± a half."""
    doubled: float = min(longest, _FIRST_SECONDS * 2.0 ** min(failures - 1, 30))
    return doubled * random.uniform(0.5, 1.5)  # noqa: S311 (jitter)


def patiently(
    work: Callable[[], T],
    *,
    seconds: float,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return ``work()``, tried again while it raises StoreError.

    After ``seconds``, or a quarter of them once ``stop()`` is true, the last StoreError is raised.
    """
    end, failures, hurried = clock() + seconds, 0, False
    while True:
        try:
            return work()
        except StoreError as error:
            failures += 1
            if not hurried and stop():
                end, hurried = min(end, clock() + seconds / 4), True
            pause = pause_after(failures, longest=seconds / 8)
            if clock() + pause > end:
                raise
            if failures == 1:
                print(f"lsqctl: trying again: {error}", flush=True)
        sleep(pause)
