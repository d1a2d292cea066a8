"""Means, 95 % intervals and tests of Top-1: percent outside, integers of counted images inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

_TINY = 1e-300
_TOLERANCE = 1e-15


def incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b), for 0 <= x <= 1 and a, b > 0.

    By its continued fraction (Abramowitz and Stegun, 26.5.8), from the side where it is short.
    """
    if not (0 <= x <= 1 and a > 0 and b > 0):
        raise ValueError(f"I_x(a, b) needs 0 <= x <= 1 and a, b > 0, got {x}, {a}, {b}")
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(1.0 - x, b, a)
    front = a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b)
    return math.exp(front) / a / _continued_fraction(x, a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """Return 1 + d1/(1 + d2/(1 + …)), evaluated forwards (Lentz 1976, as Thompson and Barnett)."""
    value, c, d = 1.0, 1.0, 0.0
    for step in range(1, 100_000):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / ((1.0 + term * d) or _TINY)
        c = (1.0 + term / c) or _TINY
        value *= c * d
        if abs(c * d - 1.0) < _TOLERANCE:
            break
    return value


def t_two_sided(t: float, degrees_of_freedom: float) -> float:
    """Return the probability beyond ±t of Student's t; ``degrees_of_freedom`` need not be whole."""
    return incomplete_beta(
        degrees_of_freedom / (degrees_of_freedom + t * t), degrees_of_freedom / 2, 0.5
    )


@cache
def t_quantile(degrees_of_freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t, for one degree of freedom or more."""
    low, high = 1.9, 12.8  # of the normal distribution, and of one degree of freedom
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (
            (middle, high) if t_two_sided(middle, degrees_of_freedom) > 0.05 else (low, middle)
        )
    return middle


def normal_two_sided(z: float) -> float:
    """Return the probability beyond ±z of the normal distribution."""
    return math.erfc(abs(z) / math.sqrt(2))


def binomial_at_least(k: int, n: int, proportion: float) -> float:
    """Return the probability of ``k`` or more of ``n``, each with probability ``proportion``."""
    if k <= 0:
        return 1.0
    return 0.0 if k > n else incomplete_beta(proportion, k, n - k + 1)


def clopper_pearson(k: int, n: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share of which ``k`` of ``n`` was seen, within 0..1.

    Clopper and Pearson 1934: it holds one half exactly when the two-sided exact test does.
    """
    low = 0.0 if k == 0 else _proportion_where(k, n, 0.025)
    high = 1.0 if k == n else _proportion_where(k + 1, n, 0.975)
    return low, high


def _proportion_where(k: int, n: int, probability: float) -> float:
    """Return the share at which ``k`` or more of ``n`` has this probability."""
    low, high = 0.0, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        is_below = binomial_at_least(k, n, middle) < probability
        low, high = (middle, high) if is_below else (low, middle)
    return middle


# The 97.5 % quantile of the normal distribution: a two-sided interval at 95 %.
Z95 = 1.959963984540054

Interval = tuple[float, float]


def percent(n_correct: float, n_total: int) -> float:
    """Return the share of ``n_total`` in percent."""
    return 100.0 * n_correct / n_total


def mean(values: Sequence[float]) -> float:
    """Return the mean, the same to the last bit in any order of ``values``."""
    return math.fsum(values) / len(values)


def sample_std(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n - 1 in the denominator); None for one value."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def t_interval(values: Sequence[float]) -> Interval:
    """Return the 95 % interval of the mean by Student's t; two values or more."""
    std = sample_std(values)
    if std is None:
        raise ValueError("a t-interval needs two values or more, got one")
    half_width = t_quantile(len(values) - 1) * std / math.sqrt(len(values))
    centre = mean(values)
    return centre - half_width, centre + half_width


def wilson_interval(n_correct: float, n_total: int) -> Interval:
    """Return Wilson's 95 % interval of a share, in percent (Wilson 1927).

    ``n_correct`` may be fractional: the mean over seeds, or a published percentage times
    ``n_total``. Holds the share itself, 0 and 100 % included.
    """
    if n_total < 1 or not 0 <= n_correct <= n_total:
        raise ValueError(f"n_correct must be 0..n_total, got {n_correct} of {n_total}")
    proportion = n_correct / n_total
    z2 = Z95 * Z95 / n_total
    centre = (proportion + z2 / 2) / (1 + z2)
    half_width = (
        Z95 / (1 + z2) * math.sqrt(proportion * (1 - proportion) / n_total + z2 / (4 * n_total))
    )
    observed = percent(n_correct, n_total)
    return min(observed, max(0.0, 100 * (centre - half_width))), max(
        observed, min(100.0, 100 * (centre + half_width))
    )


def top1_interval(values: Sequence[float], n_total: int) -> Interval:
    """Return the 95 % interval of a Top-1 measured with one seed or several, in percent.

    ``values`` are the Top-1 of each seed, ``n_total`` the images of one evaluation. It is the
    wider of the t-interval over seeds (three or more) and Wilson's of one evaluation: seeds that
    agree by luck do not make a small test set larger.
    """
    centre = mean(values)
    evaluation_interval = wilson_interval(min(centre, 100.0) / 100 * n_total, n_total)
    wilson = (min(evaluation_interval[0], centre), max(evaluation_interval[1], centre))
    if len(values) < 3:
        return wilson
    low, high = t_interval(values)
    if high - low <= wilson[1] - wilson[0]:
        return wilson
    return max(0.0, low), min(100.0, high)


@dataclass(frozen=True, slots=True)
class SignificanceTest:
    """What one test says of a difference, in points of Top-1; ``name`` fits into a sentence."""

    name: str
    difference: float
    low: float
    high: float
    p: float


def mcnemar(only_first: int, only_second: int, n_total: int) -> SignificanceTest:
    """Compare two networks on the same images, by those that only one of them gets right.

    McNemar 1947, as the exact binomial test. Each end of the interval is the outer one of two:
    Clopper and Pearson's of the share among the images on which they differ, which holds 0
    whenever p is 0.05 or more, and Agresti and Min's (2005), for which the number of those images
    is chance as well.
    """
    differing = only_first + only_second
    name = f"McNemar's exact test on the same {n_total:,} images"
    if not differing:
        return _no_difference(name, n_total)
    low, high = (
        100 * (2 * proportion - 1) * differing / n_total
        for proportion in clopper_pearson(only_first, differing)
    )
    gap = only_first - only_second
    centre = 100 * gap / (n_total + 2)  # half an image more in each of the four cells
    half_width = Z95 * 100 / (n_total + 2) * math.sqrt(differing + 1 - gap**2 / (n_total + 2))
    p = min(1.0, 2 * binomial_at_least(max(only_first, only_second), differing, 0.5))
    ends = max(-100.0, min(low, centre - half_width)), min(100.0, max(high, centre + half_width))
    return SignificanceTest(name, 100 * gap / n_total, *ends, p)


def clustered_mcnemar(
    first: Sequence[int], second: Sequence[int], n_total: int
) -> SignificanceTest:
    """Compare the means of two sides' networks on the same images; hits as bits of integers.

    McNemar's test with the image as the cluster (Durkalski et al. 2003, Statistics in Medicine
    22): the networks of a side err on the same images, so they count as one observation each.
    With one network a side it is McNemar's test without the continuity correction.
    """
    n, m = len(first), len(second)
    # Sum over images of (mean of first - mean of second)^2, times (n m)^2: all of it integers.
    sum_of_squares = (
        m * m * _common_hits(first, first)
        - 2 * n * m * _common_hits(first, second)
        + n * n * _common_hits(second, second)
    )
    total = m * sum(map(int.bit_count, first)) - n * sum(map(int.bit_count, second))
    runs = f"{n} runs" if n == m else f"{n} and {m} runs"
    name = f"McNemar's test over {runs} a side on the same {n_total:,} images"
    if not sum_of_squares:
        return _no_difference(name, n_total)
    point = 100 / (n * m * n_total)
    half_width = Z95 * math.sqrt(sum_of_squares) * point
    difference = total * point
    p = normal_two_sided(total / math.sqrt(sum_of_squares))
    return SignificanceTest(name, difference, difference - half_width, difference + half_width, p)


def paired_t(differences: Sequence[float], pair_kind: str = "seeds") -> SignificanceTest:
    """Compare by what each pair shows alone: Student's t of the differences, two or more."""
    std = sample_std(differences)
    if std is None:
        raise ValueError("a paired t-test needs two pairs or more")
    standard_error = std / math.sqrt(len(differences))
    name = f"a paired t-test over {len(differences)} {pair_kind}"
    return _t_test(name, mean(differences), standard_error, len(differences) - 1)


def welch(first: Sequence[float], second: Sequence[float]) -> SignificanceTest:
    """Compare means of runs that share no seeds (Welch 1947); two runs a side or more."""
    stds = sample_std(first), sample_std(second)
    if stds[0] is None or stds[1] is None:
        raise ValueError("Welch's test needs two runs a side or more")
    mean_variances = stds[0] ** 2 / len(first), stds[1] ** 2 / len(second)
    weights = mean_variances[0] ** 2 / (len(first) - 1) + mean_variances[1] ** 2 / (len(second) - 1)
    degrees_of_freedom = (
        sum(mean_variances) ** 2 / weights if weights else len(first) + len(second) - 2
    )
    name = f"Welch's t-test over {len(first)} and {len(second)} runs"
    return _t_test(
        name, mean(first) - mean(second), math.sqrt(sum(mean_variances)), degrees_of_freedom
    )


def _t_test(
    name: str, difference: float, standard_error: float, degrees_of_freedom: float
) -> SignificanceTest:
    half_width = t_quantile(degrees_of_freedom) * standard_error
    if not standard_error:  # seeds that agree to the last bit
        return SignificanceTest(
            name, difference, difference, difference, 0.0 if difference else 1.0
        )
    p = t_two_sided(difference / standard_error, degrees_of_freedom)
    return SignificanceTest(name, difference, difference - half_width, difference + half_width, p)


def _no_difference(name: str, n_total: int) -> SignificanceTest:
    """Return a difference of 0, as far as so many images can tell."""
    half_width = 100 * (1 - 0.025 ** (1 / n_total))
    return SignificanceTest(name, 0.0, -half_width, half_width, 1.0)


def _common_hits(first: Sequence[int], second: Sequence[int]) -> int:
    return sum((a & b).bit_count() for a in first for b in second)
