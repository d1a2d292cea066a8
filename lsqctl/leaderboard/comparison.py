"""Is one side better than the other? Two sides of runs in, a sentence and its numbers out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

from lsqctl.datasets.data_digest import DataDigest, same_images
from lsqctl.errors import UsageError
from lsqctl.events import PerImageResult
from lsqctl.leaderboard.statistics import (
    SignificanceTest,
    clustered_mcnemar,
    mcnemar,
    mean,
    paired_t,
    percent,
    sample_std,
    two_shares,
    welch,
)
from lsqctl.text import format_signed

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
    difference, low, high = map(format_signed, (test.difference, test.low, test.high))
    return (
        f"{opening}: {difference} points of Top-1 ({first.top1_mean:.2f} against "
        f"{second.top1_mean:.2f} %), 95 % interval {low} to {high}, "
        f"by {test.name}, {format_p(test.p)}"
    )


def format_p(p: float) -> str:
    """Return a p-value in two digits: ``p = 0.012``, ``p = 3e-08``, ``p < 1e-300``."""
    return "p < 1e-300" if p < 1e-300 else f"p = {p:.2g}"


RunPair = tuple[PerImageResult, PerImageResult]

SIGNIFICANCE_LEVEL = 0.05


def compare(first: ComparisonSide, second: ComparisonSide) -> Comparison:
    """Answer whether the first side is better than the second.

    Paired by seed (and cell) where two or more match, else two single runs image by image, else
    by Welch's test. A single network that was evaluated and not trained, as a full-precision start
    with public weights, has no seed: every run of the other side is paired with it. The images
    always have their say as well, one by one where each run's hits are stored, else by their
    number.
    Raises UsageError when the sides were not evaluated on the same images, or share no cell.
    """
    _check_same_images(first, second)
    pairs = _pair_runs(first, second)
    first_runs = [run for run, _ in pairs] or list(first.runs)
    second_runs = [run for _, run in pairs] or list(second.runs)
    tests = [
        *_image_tests(first_runs, second_runs),
        *_seed_tests(first_runs, second_runs, paired=bool(pairs)),
    ]
    decisive = max(tests, key=lambda test: test.high - test.low)
    verdict = _verdict(decisive)
    sides = _summarize(first, first_runs), _summarize(second, second_runs)
    return Comparison(
        answer=answer_text(sides, decisive, verdict),
        verdict=verdict,
        first=sides[0],
        second=sides[1],
        dataset=first_runs[0].dataset,
        split=first_runs[0].split,
        n_images=first_runs[0].n_total,
        difference=decisive.difference,
        low=decisive.low,
        high=decisive.high,
        p=decisive.p,
        test=decisive.name,
        paired=bool(pairs),
        tests=tuple(tests),
        rows=tuple(_comparison_rows(pairs, first_runs, second_runs)),
        notes=tuple(_caveats((first, first_runs), (second, second_runs))),
    )


def top1_percent(run: PerImageResult) -> float:
    """Return a run's Top-1 in percent."""
    return percent(run.n_correct, run.n_total)


def _check_same_images(first: ComparisonSide, second: ComparisonSide) -> None:
    first_run = first.runs[0]
    for run in (*first.runs, *second.runs):
        if (run.dataset, run.split, run.n_total) != (
            first_run.dataset,
            first_run.split,
            first_run.n_total,
        ):
            raise UsageError(
                f"{first.label} and {second.label} were not evaluated on the same images: "
                f"{_images_text(first_run)}, and {_images_text(run)}"
            )
    by_digest: dict[str, PerImageResult] = {}
    for run in (*first.runs, *second.runs):
        by_digest.setdefault(run.data_digest, run)
    for left, right in combinations(by_digest.values(), 2):
        if same_images(left.data_digest, right.data_digest) is False:
            raise UsageError(
                f"{first.label} and {second.label} were not evaluated on the same images: the "
                f"data of runs {left.run_id} and {right.run_id} have different digests"
                + _unknown_bytes(left, right)
            )


def _unknown_bytes(*runs: PerImageResult) -> str:
    """Say of which run only names and sizes of the images are known, if there is one."""
    for run in runs:
        if not DataDigest.parse(run.data_digest).images:
            return f" (of {run.run_id} only the names and sizes of the images are recorded)"
    return ""


def _images_text(run: PerImageResult) -> str:
    return f"{run.n_total:,} {run.split} images of {run.dataset} (run {run.run_id})"


def _pair_runs(first: ComparisonSide, second: ComparisonSide) -> list[RunPair]:
    if len(first.runs) == len(second.runs) == 1:
        return [(first.runs[0], second.runs[0])]
    sides = first, second
    if any(map(_is_untrained, sides)) and all(map(_is_one_recipe, sides)):
        first_runs, second_runs = (sorted(side.runs, key=lambda run: run.seed) for side in sides)
        return list(product(first_runs, second_runs))
    second_by_key = {(run.cell, run.seed): run for run in second.runs}
    pairs = [
        (run, second_by_key[run.cell, run.seed])
        for run in sorted(first.runs, key=lambda run: (run.cell, run.seed))
        if (run.cell, run.seed) in second_by_key
    ]
    if len(pairs) >= 2 or (pairs and 1 in (len(first.runs), len(second.runs))):
        return pairs
    cells = [sorted({run.cell for run in side.runs}) for side in sides]
    if cells[0] != cells[1] or len(cells[0]) > 1:
        cells_text = "; ".join(
            f"{side.label} has {', '.join(names) if names != [''] else 'one cell'}"
            for side, names in zip(sides, cells, strict=True)
        )
        raise UsageError(f"the two do not pair cell by cell: {cells_text}; name one recipe of each")
    return []


def _is_untrained(side: ComparisonSide) -> bool:
    """Whether a side is one network as it came: of other seeds it would be the same."""
    return [run.epochs for run in side.runs] == [0]


def _is_one_recipe(side: ComparisonSide) -> bool:
    return len({run.cell for run in side.runs}) == 1


def _image_tests(
    first_runs: Sequence[PerImageResult], second_runs: Sequence[PerImageResult]
) -> list[SignificanceTest]:
    if not all(_has_hits(run) for run in (*first_runs, *second_runs)):
        first, second = (
            mean([run.n_correct for run in runs]) for runs in (first_runs, second_runs)
        )
        return [two_shares(first, second, first_runs[0].n_total)]
    if len(first_runs) == len(second_runs) == 1:
        return [mcnemar(*_discordant(first_runs[0], second_runs[0]), first_runs[0].n_total)]
    return [
        clustered_mcnemar(
            [*map(_hit_bits, first_runs)], [*map(_hit_bits, second_runs)], first_runs[0].n_total
        )
    ]


def _seed_tests(
    first_runs: Sequence[PerImageResult], second_runs: Sequence[PerImageResult], *, paired: bool
) -> list[SignificanceTest]:
    if min(len(first_runs), len(second_runs)) < 2:
        return []
    if paired:
        differences = [
            top1_percent(a) - top1_percent(b) for a, b in zip(first_runs, second_runs, strict=True)
        ]
        is_single_cell = len({run.cell for run in first_runs}) == 1
        return [paired_t(differences, "seeds" if is_single_cell else "cells and seeds")]
    return [welch([*map(top1_percent, first_runs)], [*map(top1_percent, second_runs)])]


def _has_hits(run: PerImageResult) -> bool:
    return len(run.hits) == (run.n_total + 7) // 8


def _hit_bits(run: PerImageResult) -> int:
    return int.from_bytes(run.hits, "big")


def _discordant(first: PerImageResult, second: PerImageResult) -> tuple[int, int]:
    """Return how many images only the one, and only the other gets right."""
    a, b = _hit_bits(first), _hit_bits(second)
    return (a & ~b).bit_count(), (b & ~a).bit_count()


def _verdict(test: SignificanceTest) -> Verdict:
    if test.p >= SIGNIFICANCE_LEVEL:
        return "undecided"
    return "better" if test.difference > 0 else "worse"


def _summarize(side: ComparisonSide, runs: Sequence[PerImageResult]) -> SideSummary:
    runs = list({run.run_id: run for run in runs}.values())
    values = [*map(top1_percent, runs)]
    seeds = tuple(sorted({run.seed for run in runs}))
    return SideSummary(
        side.label, len(runs), side.n_failed, seeds, mean(values), sample_std(values)
    )


def _comparison_rows(
    pairs: Sequence[RunPair],
    first_runs: Sequence[PerImageResult],
    second_runs: Sequence[PerImageResult],
) -> Iterable[ComparisonRow]:
    if pairs:
        return [_pair_row(*pair) for pair in pairs]
    return [
        *(
            ComparisonRow(run.cell, run.seed, first_run=run.run_id, first_top1=top1_percent(run))
            for run in first_runs
        ),
        *(
            ComparisonRow(run.cell, run.seed, second_run=run.run_id, second_top1=top1_percent(run))
            for run in second_runs
        ),
    ]


def _pair_row(first: PerImageResult, second: PerImageResult) -> ComparisonRow:
    have_hits = _has_hits(first) and _has_hits(second)
    discordant = _discordant(first, second) if have_hits else (None, None)
    return ComparisonRow(
        first.cell,
        first.seed,
        first.run_id,
        second.run_id,
        top1_percent(first),
        top1_percent(second),
        difference=top1_percent(first) - top1_percent(second),
        only_first=discordant[0],
        only_second=discordant[1],
        p=mcnemar(*_discordant(first, second), first.n_total).p if have_hits else None,
    )


def _caveats(*sides: tuple[ComparisonSide, Sequence[PerImageResult]]) -> Iterable[str]:
    counts = [len({run.run_id for run in compared}) for _, compared in sides]
    trained = [n for n, (side, _) in zip(counts, sides, strict=True) if not _is_untrained(side)]
    fewest_runs = min(trained, default=1)
    if fewest_runs == 1:
        yield "one run a side tells two networks apart; recipes need three seeds or more of each"
    if fewest_runs == 2:
        yield "two seeds say little of their spread; three seeds or more say whether it is luck"
    for n_compared, (side, compared) in zip(counts, sides, strict=True):
        n_unpaired = len(side.runs) - n_compared
        if n_unpaired:
            yield f"{n_unpaired} of {len(side.runs)} runs of {side.label} have no counterpart"
        if not all(map(_has_hits, compared)):
            yield f"{side.label}: which images were right is not stored; so they are not paired"
        if side.n_failed:
            yield f"{side.n_failed} failed runs of {side.label} are not in its mean"
        if n_compared < len(compared):
            yield f"{side.label} was evaluated as it came: each run stands against it"
        if any(run.selection == "best" for run in compared):
            yield f"{side.label}: the epoch was chosen by looking at these images"
        yield from side.notes
    runs = [run for _, compared in sides for run in compared]
    yield from _digest_caveats({run.data_digest for run in runs})
    if len({_evaluated_as(run.preprocessing) for run in runs}) > 1:
        yield "the images were prepared differently"
    elif len({run.preprocessing for run in runs if run.epochs}) > 1:
        yield "the training images were prepared differently"


def _digest_caveats(digests: set[str]) -> Iterable[str]:
    parsed = [DataDigest.parse(digest) for digest in digests if digest]
    if not all(digest.images for digest in parsed):
        yield "that the images are the same is told by their names and sizes, not by their bytes"
    if len({digest.train for digest in parsed}) > 1:
        listed = any(digest.startswith("listing-") for digest in digests)
        yield "the training images differ" + (", or only one side's are packed" if listed else "")


def _evaluated_as(preprocessing: str) -> str:
    """Return how images were prepared, without what is done in training alone.

    >>> _evaluated_as("as it is, 32x32; /255; training: pad 4 and crop, mirror yes")
    'as it is, 32x32; /255'
    """
    clauses = preprocessing.split("; ")
    return "; ".join(clause for clause in clauses if not clause.startswith("training: "))
