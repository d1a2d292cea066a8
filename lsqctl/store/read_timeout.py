"""A PostgreSQL connection that gives up on a server from which nothing comes any more.

A half-open connection (a dead switch, a suspended proxy) acknowledges what we send and answers
nothing, and no option of libpq sees that. So every wait for the server has an end here.

Apart because psycopg is an extra: only a store on PostgreSQL imports it.
"""

from __future__ import annotations

import time
from typing import TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

_POLL_SECONDS = 0.1
T = TypeVar("T")


class TimeoutConnection(psycopg.Connection[TupleRow]):
    """Raises OperationalError, and closes, after ``read_timeout`` seconds without a byte.

    ``None`` waits for ever: for statements that may work long in silence, as an upgrade.
    """

    read_timeout: float | None = None

    def wait(
        self,
        gen: PQGen[T],
        interval: float = _POLL_SECONDS,
        timeout: float | None = None,
    ) -> T:
        """Run one of psycopg's generators to its end."""
        bounded = self._bounded(gen)
        if timeout is None:  # older versions of psycopg know no such option
            return super().wait(bounded, interval)
        return super().wait(bounded, interval, timeout)

    def _bounded(self, gen: PQGen[T]) -> PQGen[T]:
        try:
            awaited = next(gen)
            last_data_at = time.monotonic()
            while True:
                ready = yield awaited
                if ready:
                    last_data_at = time.monotonic()
                elif self.read_timeout and time.monotonic() - last_data_at > self.read_timeout:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(
                        f"no answer from the server for {self.read_timeout:g} s"
                    )
                awaited = gen.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value
