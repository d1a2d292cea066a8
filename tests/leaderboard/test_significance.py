"""Tests of a difference: known values, and laws that tie interval, p and slow sums together."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.leaderboard.statistics import clustered_mcnemar, mcnemar, paired_t, welch

IMAGES = 12
networks = st.lists(st.integers(0, 2**IMAGES - 1), min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [  # statsmodels' exact mcnemar: scipy.stats.binomtest(b, b + c, 0.5).pvalue
        (5, 15, 0.04138946533203125),
        (1, 0, 1.0),
        (20, 31, 0.16077960181198847),
        (121, 73, 0.0006994751068483495),
        (0, 8, 0.0078125),
    ],
)
def test_mcnemars_exact_test_has_the_known_p(only_first, only_second, p):
    found = mcnemar(only_first, only_second, 540)
    assert found.p == pytest.approx(p, rel=1e-10)
    assert found.difference == pytest.approx(100 * (only_first - only_second) / 540)


def test_an_interval_of_mcnemars_test_is_the_wider_of_two():
    found = mcnemar(5, 15, 1_000)
    # Clopper and Pearson: 0.0866 to 0.4910 of the 20 images that differ
    assert found.high == pytest.approx(100 * (2 * 0.49104587 - 1) * 20 / 1_000)
    # Agresti and Min: (5.5 - 15.5) / 1002 less 1.96 standard errors
    assert found.low == pytest.approx(-100 * (10 + 1.959964 * (21 - 100 / 1002) ** 0.5) / 1002)


@given(st.integers(0, 60), st.integers(0, 60))
def test_an_interval_holds_zero_exactly_when_p_says_so(only_first, only_second):
    found = mcnemar(only_first, only_second, 10_000)
    assert (found.low <= 0 <= found.high) == (found.p >= 0.05)
    assert found.low <= found.difference <= found.high


def test_networks_that_agree_on_every_image_leave_room_for_what_540_images_cannot_show():
    found = mcnemar(0, 0, 540)
    assert (found.difference, found.p) == (0, 1)
    assert found.high == pytest.approx(100 * (1 - 0.025 ** (1 / 540)))


@given(networks, networks)
def test_many_networks_are_one_observation_an_image(first, second):
    found = clustered_mcnemar(first, second, IMAGES)
    slowly = [
        sum(n >> image & 1 for n in first) / len(first)
        - sum(n >> image & 1 for n in second) / len(second)
        for image in range(IMAGES)
    ]
    squares = sum(d * d for d in slowly)
    assert found.difference == pytest.approx(100 * sum(slowly) / IMAGES, abs=1e-9)
    if squares:
        z = sum(slowly) / math.sqrt(squares)
        assert found.p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), rel=1e-9)
        assert (found.low < 0 < found.high) == (found.p > 0.05)


def test_the_same_network_three_times_over_is_no_new_evidence():
    one = clustered_mcnemar([0b1110], [0b0001], 4)
    thrice = clustered_mcnemar([0b1110] * 3, [0b0001] * 3, 4)
    assert (one.p, one.low, one.high) == pytest.approx((thrice.p, thrice.low, thrice.high))


def test_one_network_a_side_is_mcnemars_test_without_correction():
    first, second = (1 << 40) - 1, ((1 << 25) - 1) << 40  # 40 against 25
    chi2 = (40 - 25) ** 2 / (40 + 25)
    assert clustered_mcnemar([first], [second], 100).p == pytest.approx(
        math.erfc(math.sqrt(chi2 / 2)), rel=1e-12
    )


def test_a_paired_t_test_is_scipys():
    # scipy.stats.ttest_1samp([0.5, 0.9, 1.3], 0)
    found = paired_t([0.5, 0.9, 1.3])
    assert found.p == pytest.approx(0.05998065783923168, rel=1e-10)
    assert (found.low, found.high) == pytest.approx((-0.09365508470013206, 1.893655084700132))


def test_welchs_test_is_scipys():
    # scipy.stats.ttest_ind([98.7, 98.9, 99.1], [97.0, 98.4], equal_var=False)
    found = welch([98.7, 98.9, 99.1], [97.0, 98.4])
    assert found.p == pytest.approx(0.33023500602967887, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((-6.780241830824712, 9.180241830824746))


def test_seeds_that_agree_to_the_last_bit_have_an_interval_of_no_width():
    assert paired_t([0.5, 0.5]).p == 0
    assert paired_t([0.0, 0.0]).p == 1
    assert welch([90.0, 90.0], [90.0, 90.0]).p == 1


@pytest.mark.parametrize("short", [lambda: paired_t([1.0]), lambda: welch([1.0], [1.0, 2.0])])
def test_a_spread_needs_two_values(short):
    with pytest.raises(ValueError, match="two"):
        short()


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6))
def test_more_of_the_same_seeds_never_make_p_larger(differences):
    found = [paired_t(differences * times).p for times in (1, 2, 3)]
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(found))
