"""Tests of a difference in Top-1: on the same images, over the same seeds, or over any runs.

Each returns the difference, its 95 % interval and a two-sided p-value; accuracies in percent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lsqctl.leaderboard.distributions import (
    binomial_at_least,
    clopper_pearson,
    normal_two_sided,
    t_quantile,
    t_two_sided,
)
from lsqctl.leaderboard.statistics import Z95, mean, sample_std


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
