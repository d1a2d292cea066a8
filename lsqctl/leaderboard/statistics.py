"""Means and 95 % intervals of accuracies: percent outside, integers of counted images inside."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lsqctl.leaderboard.distributions import t_quantile

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
    spread = sample_std(values)
    if spread is None:
        raise ValueError("a t-interval needs two values or more, got one")
    half = t_quantile(len(values) - 1) * spread / math.sqrt(len(values))
    centre = mean(values)
    return centre - half, centre + half


def wilson_interval(n_correct: float, n_total: int) -> Interval:
    """Return Wilson's 95 % interval of a share, in percent (Wilson 1927).

    ``n_correct`` may be fractional: the mean over seeds, or a published percentage times
    ``n_total``. Holds the share itself, 0 and 100 % included.
    """
    if n_total < 1 or not 0 <= n_correct <= n_total:
        raise ValueError(f"n_correct must be 0..n_total, got {n_correct} of {n_total}")
    share = n_correct / n_total
    z2 = Z95 * Z95 / n_total
    centre = (share + z2 / 2) / (1 + z2)
    half = Z95 / (1 + z2) * math.sqrt(share * (1 - share) / n_total + z2 / (4 * n_total))
    here = percent(n_correct, n_total)
    return min(here, max(0.0, 100 * (centre - half))), max(here, min(100.0, 100 * (centre + half)))


def interval(values: Sequence[float], n_total: int) -> Interval:
    """Return the 95 % interval of a Top-1 measured with one seed or several, in percent.

    ``values`` are the Top-1 of each seed, ``n_total`` the images of one evaluation. It is the
    wider of the t-interval over seeds (three or more) and Wilson's of one evaluation: seeds that
    agree by luck do not make a small test set larger.
    """
    centre = mean(values)
    one = wilson_interval(min(centre, 100.0) / 100 * n_total, n_total)
    wilson = (min(one[0], centre), max(one[1], centre))
    if len(values) < 3:
        return wilson
    low, high = t_interval(values)
    if high - low <= wilson[1] - wilson[0]:
        return wilson
    return max(0.0, low), min(100.0, high)
