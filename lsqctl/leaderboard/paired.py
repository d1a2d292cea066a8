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
class Test:
    """What one test says of a difference, in points of Top-1; ``name`` fits into a sentence."""

    name: str
    difference: float
    low: float
    high: float
    p: float


def mcnemar(only_first: int, only_second: int, n_total: int) -> Test:
    """Compare two networks on the same images, by those that only one of them gets right.

    McNemar 1947, as the exact binomial test. Each end of the interval is the outer one of two:
    Clopper and Pearson's of the share among the images on which they differ, which holds 0
    whenever p is 0.05 or more, and Agresti and Min's (2005), for which the number of those images
    is chance as well.
    """
    differing = only_first + only_second
    name = f"McNemar's exact test on the same {n_total:,} images"
    if not differing:
        return _never_different(name, n_total)
    low, high = (
        100 * (2 * share - 1) * differing / n_total
        for share in clopper_pearson(only_first, differing)
    )
    gap = only_first - only_second
    centre = 100 * gap / (n_total + 2)  # half an image more in each of the four cells
    half = Z95 * 100 / (n_total + 2) * math.sqrt(differing + 1 - gap**2 / (n_total + 2))
    p = min(1.0, 2 * binomial_at_least(max(only_first, only_second), differing, 0.5))
    ends = max(-100.0, min(low, centre - half)), min(100.0, max(high, centre + half))
    return Test(name, 100 * gap / n_total, *ends, p)


def mcnemar_of_many(first: Sequence[int], second: Sequence[int], n_total: int) -> Test:
    """Compare the means of two sides' networks on the same images; hits as bits of integers.

    McNemar's test with the image as the cluster (Durkalski et al. 2003, Statistics in Medicine
    22): the networks of a side err on the same images, so they count as one observation each.
    With one network a side it is McNemar's test without the continuity correction.
    """
    n, m = len(first), len(second)
    # Sum over images of (mean of first - mean of second)^2, times (n m)^2: all of it integers.
    squares = (
        m * m * _common(first, first)
        - 2 * n * m * _common(first, second)
        + n * n * _common(second, second)
    )
    total = m * sum(map(int.bit_count, first)) - n * sum(map(int.bit_count, second))
    runs = f"{n} runs" if n == m else f"{n} and {m} runs"
    name = f"McNemar's test over {runs} a side on the same {n_total:,} images"
    if not squares:
        return _never_different(name, n_total)
    point = 100 / (n * m * n_total)
    half = Z95 * math.sqrt(squares) * point
    difference = total * point
    p = normal_two_sided(total / math.sqrt(squares))
    return Test(name, difference, difference - half, difference + half, p)


def paired_t(differences: Sequence[float], pairs: str = "seeds") -> Test:
    """Compare by what each pair shows alone: Student's t of the differences, two or more."""
    spread = sample_std(differences)
    if spread is None:
        raise ValueError("a paired t-test needs two pairs or more")
    error = spread / math.sqrt(len(differences))
    name = f"a paired t-test over {len(differences)} {pairs}"
    return _students(name, mean(differences), error, len(differences) - 1)


def welch(first: Sequence[float], second: Sequence[float]) -> Test:
    """Compare means of runs that share no seeds (Welch 1947); two runs a side or more."""
    spreads = sample_std(first), sample_std(second)
    if spreads[0] is None or spreads[1] is None:
        raise ValueError("Welch's test needs two runs a side or more")
    parts = spreads[0] ** 2 / len(first), spreads[1] ** 2 / len(second)
    weights = parts[0] ** 2 / (len(first) - 1) + parts[1] ** 2 / (len(second) - 1)
    freedom = sum(parts) ** 2 / weights if weights else len(first) + len(second) - 2
    name = f"Welch's t-test over {len(first)} and {len(second)} runs"
    return _students(name, mean(first) - mean(second), math.sqrt(sum(parts)), freedom)


def _students(name: str, difference: float, error: float, freedom: float) -> Test:
    half = t_quantile(freedom) * error
    if not error:  # seeds that agree to the last bit
        return Test(name, difference, difference, difference, 0.0 if difference else 1.0)
    p = t_two_sided(difference / error, freedom)
    return Test(name, difference, difference - half, difference + half, p)


def _never_different(name: str, n_total: int) -> Test:
    """Return a difference of 0, as far as so many images can tell."""
    half = 100 * (1 - 0.025 ** (1 / n_total))
    return Test(name, 0.0, -half, half, 1.0)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    return sum((a & b).bit_count() for a in first for b in second)
