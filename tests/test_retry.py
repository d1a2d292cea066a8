"""Laws of trying again: after what, how often, and how much later."""

from __future__ import annotations

import pytest

from lsqctl.retry import backoff_delay, retry


class Failing:
    """Work that fails so many times, then gives the number of the try."""

    def __init__(self, times: int, error: type[Exception] = OSError) -> None:
        self.times, self.error, self.tries = times, error, 0

    def __call__(self) -> int:
        self.tries += 1
        if self.tries <= self.times:
            raise self.error(f"try {self.tries}")
        return self.tries


def test_work_is_tried_until_it_succeeds_with_the_delays_that_were_given() -> None:
    slept: list[float] = []
    assert retry(Failing(3), OSError, lambda _, failures: 10.0**failures, sleep=slept.append) == 4
    assert slept == [10.0, 100.0, 1000.0]


def test_the_last_error_is_raised_where_there_is_no_delay() -> None:
    slept: list[float] = []
    work = Failing(5)
    with pytest.raises(OSError, match="try 3"):
        retry(work, OSError, lambda _, n: 1.0 if n < 3 else None, sleep=slept.append)
    assert (work.tries, slept) == (3, [1.0, 1.0])


def test_another_error_is_not_tried_again() -> None:
    work = Failing(5, KeyError)
    with pytest.raises(KeyError):
        retry(work, OSError, lambda *_: 0.0)
    assert work.tries == 1


@pytest.mark.parametrize("failures", [*range(1, 12), 1000])
def test_the_back_off_doubles_from_a_fifth_of_a_second_to_its_end_give_or_take_a_half(
    failures: int,
) -> None:
    middle = min(0.2 * 2 ** (failures - 1), 30.0)
    delays = [backoff_delay(failures) for _ in range(200)]
    assert middle / 2 <= min(delays) < 0.75 * middle
    assert 1.25 * middle < max(delays) <= 1.5 * middle
    assert max(backoff_delay(failures, max_delay=0.4) for _ in range(200)) <= 0.6
