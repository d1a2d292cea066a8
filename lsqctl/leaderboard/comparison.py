"""What a comparison is asked and what it answers: values, and the words of the one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lsqctl.leaderboard.paired import SignificanceTest
from lsqctl.per_image_result import PerImageResult

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True, slots=True)
class ComparisonSide:
    """What a person asked to compare: succeeded runs, one a seed and cell; failed ones counted."""

    label: str
    runs: tuple[PerImageResult, ...]
    n_failed: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SideSummary:
    """One side in numbers, of the runs that were compared; Top-1 in percent."""

    label: str
    n: int
    n_failed: int
    seeds: tuple[int, ...]
    top1_mean: float
    top1_std: float | None


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """Two runs side by side, or one run where nothing pairs them.

    ``only_first`` and ``only_second`` count the images that only one of the two gets right.
    """

    cell: str
    seed: int
    first_run: str | None = None
    second_run: str | None = None
    first_top1: float | None = None
    second_top1: float | None = None
    difference: float | None = None
    only_first: int | None = None
    only_second: int | None = None
    p: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The answer. ``difference`` is first minus second, in points of Top-1, with its 95 % interval.

    ``test`` is the one of ``tests`` with the widest interval, and decides: seeds that agree by
    luck do not make a small test set larger, nor many images up for few seeds.
    """

    answer: str
    verdict: Verdict
    first: SideSummary
    second: SideSummary
    dataset: str
    split: str
    n_images: int
    difference: float
    low: float
    high: float
    p: float
    test: str
    paired: bool
    tests: tuple[SignificanceTest, ...]
    rows: tuple[ComparisonRow, ...]
    notes: tuple[str, ...]


def answer_text(
    sides: tuple[SideSummary, SideSummary], test: SignificanceTest, verdict: Verdict
) -> str:
    """Return the answer in one sentence: verdict, difference, interval, test and p."""
    first, second = sides
    opening = {
        "better": f"yes: {first.label} is better than {second.label}",
        "worse": f"no: {first.label} is worse than {second.label}",
        "undecided": f"it cannot be told whether {first.label} or {second.label} is better",
    }[verdict]
    return (
        f"{opening}: {points(test.difference)} points of Top-1 ({first.top1_mean:.2f} against "
        f"{second.top1_mean:.2f} %), 95 % interval {points(test.low)} to {points(test.high)}, "
        f"by {test.name}, {format_p(test.p)}"
    )


def points(value: float) -> str:
    """Return a difference in points with its sign: ``+1.67``, ``−0.19``, ``0.00``."""
    text = f"{value:+.2f}".replace("-", "−")
    return text[1:] if float(text[1:]) == 0 else text


def format_p(p: float) -> str:
    """Return a p-value in two digits: ``p = 0.012``, ``p = 3e-08``, ``p < 1e-300``."""
    return "p < 1e-300" if p < 1e-300 else f"p = {p:.2g}"
