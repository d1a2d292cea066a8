"""Tails and quantiles of Student's t, the normal and the binomial, without a heavy library.

The one library that has them takes longer to import than a leaderboard takes to draw.
"""

from __future__ import annotations

import math
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
