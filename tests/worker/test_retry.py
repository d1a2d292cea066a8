"""Laws of waiting for a database that is away, on a clock of our own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lsqctl.errors import LeaseLost, StoreError
from lsqctl.worker.retry import RETRY_LEASES, retry_store
from tests.store.samples import Clock

LEASE = 8.0


def seconds_waited(work: Callable[[], object], stop_at: float) -> float:
    """Wait for work that always fails; return how long, by the clock that only sleeping moves."""
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.seconds += seconds

    with pytest.raises(StoreError):
        retry_store(
            work,
            lease_seconds=LEASE,
            stop=lambda: clock.seconds >= stop_at,
            clock=clock,
            sleep=sleep,
        )
    return clock.seconds


def away() -> None:
    raise StoreError("the database is away")


# the last delay, an eighth of the time and half as much again, may not fit before the end
SLACK = RETRY_LEASES * LEASE / 8 * 1.5


def test_a_database_that_is_away_is_waited_for_four_leases() -> None:
    assert RETRY_LEASES * LEASE - SLACK < seconds_waited(away, 10**9) <= RETRY_LEASES * LEASE


@pytest.mark.parametrize("stop_at", [0.0, LEASE])
def test_a_retrys_wait_is_shortened_by_a_stop_to_a_quarter_from_then(stop_at: float) -> None:
    waited = seconds_waited(away, stop_at)
    assert stop_at <= waited <= stop_at + SLACK + RETRY_LEASES * LEASE / 4


def test_a_stop_that_comes_late_does_not_lengthen_the_wait() -> None:
    assert seconds_waited(away, RETRY_LEASES * LEASE - SLACK) <= RETRY_LEASES * LEASE


def test_a_lease_that_is_lost_is_not_waited_for() -> None:
    tries = []

    def lost() -> None:
        tries.append(1)
        raise LeaseLost("another attempt owns the run")

    with pytest.raises(LeaseLost):
        retry_store(lost, lease_seconds=LEASE)
    assert tries == [1]
