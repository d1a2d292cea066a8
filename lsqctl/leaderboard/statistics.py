"""Means, 95 % intervals and tests of Top-1: percent outside, integers of counted images inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

# scipy's values for 2 to 20 seeds: to import it takes half of the time of a leaderboard
_T_QUANTILES = """
    12.706204736174694 4.302652729749462 3.1824463052837078 2.7764451051977934 2.5705818356363146
    2.4469118511449786 2.364624251592784 2.306004135204166 2.262157162798205 2.228138851986274
    2.200985160091639 2.1788128296672284 2.1603686564627913 2.144786687917804 2.131449545559776
    2.1199052992212546 2.1098155778333156 2.1009220402410382 2.0930240544083087
"""
_T_QUANTILE_BY_FREEDOM: dict[float, float] = dict(
    enumerate(map(float, _T_QUANTILES.split()), start=1)
)


def t_two_sided(t: float, degrees_of_freedom: float) -> float:
    """Return the probability beyond ±t of Student's t; ``degrees_of_freedom`` need not be whole."""
    from scipy import special

    return 2 * float(special.stdtr(degrees_of_freedom, -abs(t)))


@cache
def t_quantile(degrees_of_freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t; ``degrees_of_freedom`` need not be whole."""
    if degrees_of_freedom in _T_QUANTILE_BY_FREEDOM:
        return _T_QUANTILE_BY_FREEDOM[degrees_of_freedom]
    from scipy import special

    return float(special.stdtrit(degrees_of_freedom, 0.975))


def normal_two_sided(z: float) -> float:
    """Return the probability beyond ±z of the normal distribution."""
    return math.erfc(abs(z) / math.sqrt(2))


def binomial_at_least(k: int, n: int, proportion: float) -> float:
    """Return the probability of ``k`` or more of ``n``, each with probability ``proportion``."""
    from scipy import special

    if k <= 0:
        return 1.0
    return 0.0 if k > n else float(special.betainc(k, n - k + 1, proportion))


def clopper_pearson(k: int, n: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share of which ``k`` of ``n`` was seen, within 0..1.

    Clopper and Pearson 1934: it holds one half exactly when the two-sided exact test does.
    """
    from scipy import special

    low = 0.0 if k == 0 else float(special.betaincinv(k, n - k + 1, 0.025))
    high = 1.0 if k == n else float(special.betaincinv(k + 1, n - k, 0.975))
    return low, high


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


def two_shares(first_correct: float, second_correct: float, n_total: int) -> SignificanceTest:
    """Compare two counts of right images of ``n_total`` each; the means of a side's networks.

    For networks of which nobody knows which images they got right. Agresti and Caffo 2000 (The
    American Statistician 54): one right and one wrong image more a side. Taken as if the images
    were others for each side, which asks more of a difference than McNemar's test does.
    """
    first, second = ((count + 1) / (n_total + 2) for count in (first_correct, second_correct))
    variance = (first * (1 - first) + second * (1 - second)) / (n_total + 2)
    centre, half_width = 100 * (first - second), 100 * Z95 * math.sqrt(variance)
    name = f"a test of two shares of {n_total:,} images"
    p = normal_two_sided((first - second) / math.sqrt(variance))
    difference = percent(first_correct - second_correct, n_total)
    ends = max(-100.0, centre - half_width), min(100.0, centre + half_width)
    return SignificanceTest(name, difference, *ends, p)


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
