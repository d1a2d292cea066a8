"""Intervals: known values, and the laws that hold for all counts."""

import statistics as stdlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.leaderboard.statistics import (
    mean,
    percent,
    sample_std,
    t_interval,
    top1_interval,
    wilson_interval,
)

percents = st.lists(st.floats(0, 100), min_size=1, max_size=8)


def half(bounds):
    return (bounds[1] - bounds[0]) / 2


def test_wilson_is_0_40_points_at_70_percent_of_imagenet():
    assert half(wilson_interval(35_000, 50_000)) == pytest.approx(0.40, abs=0.005)


def test_wilson_is_0_53_points_at_92_percent_of_cifar():
    assert half(wilson_interval(9_200, 10_000)) == pytest.approx(0.53, abs=0.005)


def test_wilson_is_the_published_interval_of_a_small_sample():
    # 8 of 10: 0.4902 to 0.9433, worked by hand from (p + z^2/2n +- z sqrt(..)) / (1 + z^2/n)
    assert wilson_interval(8, 10) == pytest.approx((49.02, 94.33), abs=0.01)


def test_students_t_at_three_seeds_is_4_303_standard_errors():
    values = [91.0, 92.0, 93.0]
    assert half(t_interval(values)) == pytest.approx(4.302653 * 1.0 / 3**0.5, rel=1e-6)


def test_a_t_interval_of_one_value_is_refused():
    with pytest.raises(ValueError, match="two values or more"):
        t_interval([90.0])


@pytest.mark.parametrize(("n_correct", "n_total"), [(0, 0), (-1, 10), (11, 10)])
def test_impossible_counts_are_refused(n_correct, n_total):
    with pytest.raises(ValueError, match=r"0\.\.n_total"):
        wilson_interval(n_correct, n_total)


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_share_and_stays_within_0_and_100(counts):
    low, high = wilson_interval(*counts)
    assert 0 <= low <= percent(*counts) <= high <= 100
    assert low < high


@given(percents, st.sampled_from([1, 540, 50_000]))
def test_an_interval_holds_the_mean_and_is_never_narrower_than_one_evaluation(values, total):
    low, high = top1_interval(values, total)
    one = wilson_interval(min(mean(values), 100) / 100 * total, total)
    assert 0 <= low <= mean(values) <= high <= 100
    clipped = low == 0 or high == 100
    assert clipped or high - low >= (one[1] - one[0]) * (1 - 1e-12)


def test_two_seeds_far_apart_get_the_interval_of_one_evaluation():
    assert top1_interval([80.0, 90.0], 10_000) == pytest.approx(wilson_interval(8_500, 10_000))


def test_three_seeds_far_apart_get_the_wider_t_interval():
    assert top1_interval([80.0, 85.0, 90.0], 10_000) == pytest.approx(
        t_interval([80.0, 85.0, 90.0])
    )


def test_three_seeds_that_agree_get_the_interval_of_one_evaluation():
    assert top1_interval([85.0] * 3, 10_000) == pytest.approx(wilson_interval(8_500, 10_000))


@given(percents)
def test_mean_and_deviation_are_those_of_the_standard_library(values):
    assert mean(values) == pytest.approx(stdlib.fmean(values))
    if len(values) > 1:
        assert sample_std(values) == pytest.approx(stdlib.stdev(values), rel=1e-9, abs=1e-9)
    else:
        assert sample_std(values) is None


@given(st.permutations([70.1, 70.2, 99.9, 1e-9, 33.3]))
def test_a_mean_is_the_same_to_the_last_bit_in_any_order(values):
    assert mean(values) == mean(sorted(values))
