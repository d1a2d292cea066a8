"""Tails and quantiles: values that were computed apart from scipy, and laws."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.leaderboard.statistics import (
    binomial_at_least,
    clopper_pearson,
    normal_two_sided,
    t_quantile,
    t_two_sided,
)


def test_the_quantiles_of_up_to_twenty_seeds_are_those_of_scipy():
    from scipy import special

    expected = [special.stdtrit(freedom, 0.975) for freedom in range(1, 25)]
    assert [t_quantile(freedom) for freedom in range(1, 25)] == expected


@pytest.mark.parametrize(
    ("freedom", "quantile", "beyond"),
    [  # scipy.stats.t: ppf(0.975), and 2 * sf(2.5)
        (1, 12.706204736174694, 0.24223788318168682),
        (1.3, 7.500529325562029, 0.19328076715615347),
        (2, 4.302652729749462, 0.12961172022151082),
        (3, 3.1824463052837078, 0.08770664700806556),
        (9.5, 2.2441374614922958, 0.03258505778960436),
        (1000, 1.9623390808264083, 0.012578567801090807),
    ],
)
def test_students_t_is_the_known_one_for_whole_and_broken_degrees(freedom, quantile, beyond):
    assert t_quantile(freedom) == pytest.approx(quantile, rel=1e-11)
    assert t_two_sided(2.5, freedom) == pytest.approx(beyond, rel=1e-11)
    assert t_two_sided(-2.5, freedom) == t_two_sided(2.5, freedom)


@pytest.mark.parametrize(
    ("t", "freedom", "beyond"),
    [(1, 1, 0.5), (math.sqrt(0.5 / 0.999), 500, 0.47960989887171573), (0, 7, 1.0)],
)
def test_the_tails_of_students_t_are_the_known_ones(t, freedom, beyond):
    assert t_two_sided(t, freedom) == pytest.approx(beyond, rel=1e-11)


def test_the_normal_distribution_has_5_percent_beyond_1_96():
    assert normal_two_sided(-1.959963984540054) == pytest.approx(0.05, rel=1e-12)


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n + 1), st.just(n))))
def test_the_binomial_is_the_sum_of_its_terms(counts):
    k, n = counts
    slowly = sum(math.comb(n, i) * 0.3**i * 0.7 ** (n - i) for i in range(k, n + 1))
    assert binomial_at_least(k, n, 0.3) == pytest.approx(slowly, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("k", "n", "proportion", "value"), [(2, 6, 0.3, 0.579825), (1, 1000, 0.01, 0.9999568287525893)]
)
def test_the_binomial_is_the_known_one(k, n, proportion, value):
    assert binomial_at_least(k, n, proportion) == pytest.approx(value, rel=1e-11)


@pytest.mark.parametrize(
    ("k", "n", "bounds"),
    [  # scipy.stats.binomtest(k, n).proportion_ci()
        (5, 20, (0.08657146910143455, 0.49104587170795755)),
        (1, 1, (0.025, 1.0)),
        (0, 8, (0.0, 0.3694166475528192)),
        (121, 194, (0.5514884356705047, 0.6920909346292269)),
    ],
)
def test_clopper_and_pearson_is_the_known_interval(k, n, bounds):
    assert clopper_pearson(k, n) == pytest.approx(bounds, rel=1e-9)
