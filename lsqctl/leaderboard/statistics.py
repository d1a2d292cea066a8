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
