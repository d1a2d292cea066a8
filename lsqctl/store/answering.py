"""A PostgreSQL connection that gives up on a server from which nothing comes any more.

A half-open connection (a dead switch, a suspended proxy) acknowledges what we send and answers
nothing, and no option of libpq sees that. So every wait for the server has an end here.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg

_LOOK_SECONDS = 0.1
T = TypeVar("T")


class AnsweringConnection(psycopg.Connection[Any]):
    """Raises OperationalError, and closes, after ``silence_seconds`` without a byte.

    ``None`` waits for ever: for statements that may work long in silence, as an upgrade.
    """

    silence_seconds: float | None = None

    def wait(
        self,
        gen: Generator[Any, Any, T],
        interval: float = _LOOK_SECONDS,
        timeout: float | None = None,
    ) -> T:
        """Run one of psycopg's generators to its end."""
        bounded = self._bounded(gen)
        if timeout is None:  # older versions of psycopg know no such option
            return super().wait(bounded, interval)
        return super().wait(bounded, interval, timeout)

    def _bounded(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        try:
            wanted = next(gen)
            heard = time.monotonic()
            while True:
                ready = yield wanted
                if ready:
                    heard = time.monotonic()
                elif self.silence_seconds and time.monotonic() - heard > self.silence_seconds:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(
                        f"no answer from the server for {self.silence_seconds:g} s"
                    )
                wanted = gen.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value
