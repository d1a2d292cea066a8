"""Is one side better than the other?  Two sides of runs in, one sentence and its numbers out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lsqctl.errors import DataError, UsageError
from lsqctl.leaderboard.comparison import Comparison, Row, Side, Summary, Verdict, sentence
from lsqctl.leaderboard.paired import Test, mcnemar, mcnemar_of_many, paired_t, welch
from lsqctl.leaderboard.statistics import mean, percent, sample_std
from lsqctl.per_image_result import PerImageResult

Pair = tuple[PerImageResult, PerImageResult]

LEVEL = 0.05
_DIGEST = re.compile(r"(?:listing-)?sha256:[0-9a-f]{32}([0-9a-f]{32})")


def compare(first: Side, second: Side) -> Comparison:
    """Answer whether the first side is better than the second.

    Paired by seed (and cell) where two or more match, else two single runs image by image, else
    by Welch's test; with the hits of each image at hand, the images have their say as well.
    Raises UsageError when the sides were not evaluated on the same images, or share no cell, and
    DataError when nothing can tell them apart.
    """
    _check_same_images(first, second)
    pairs = _pairs(first, second)
    ours = [one for one, _ in pairs] or list(first.runs)
    theirs = [other for _, other in pairs] or list(second.runs)
    tests = [*_by_images(ours, theirs), *_by_seeds(ours, theirs, paired=bool(pairs))]
    if not tests:
        raise DataError(
            f"{first.label} and {second.label} cannot be compared: no hits of single images are "
            "stored, and two runs a side are needed without them"
        )
    decisive = max(tests, key=lambda test: test.high - test.low)
    verdict = _verdict(decisive)
    sides = _summary(first, ours), _summary(second, theirs)
    return Comparison(
        answer=sentence(sides, decisive, verdict),
        verdict=verdict,
        first=sides[0],
        second=sides[1],
        dataset=ours[0].dataset,
        split=ours[0].split,
        n_images=ours[0].n_total,
        difference=decisive.difference,
        low=decisive.low,
        high=decisive.high,
        p=decisive.p,
        test=decisive.name,
        paired=bool(pairs),
        tests=tuple(tests),
        rows=tuple(_rows(pairs, ours, theirs)),
        notes=tuple(_notes((first, ours), (second, theirs))),
    )


def top1(run: PerImageResult) -> float:
    """Return a run's Top-1 in percent."""
    return percent(run.n_correct, run.n_total)


def _check_same_images(first: Side, second: Side) -> None:
    one = first.runs[0]
    for run in (*first.runs, *second.runs):
        if (run.dataset, run.split, run.n_total) != (one.dataset, one.split, one.n_total):
            raise UsageError(
                f"{first.label} and {second.label} were not evaluated on the same images: "
                f"{_images(one)}, and {_images(run)}"
            )
        if _evaluated(run) != _evaluated(one):
            raise UsageError(
                f"{first.label} and {second.label} were not evaluated on the same images: the "
                f"data of runs {one.run_id} and {run.run_id} have different digests"
            )


def _images(run: PerImageResult) -> str:
    return f"{run.n_total:,} {run.split} images of {run.dataset} (run {run.run_id})"


def _evaluated(run: PerImageResult) -> str:
    """Return the digest of the evaluated images; of all data where it is not known apart."""
    found = _DIGEST.fullmatch(run.data_digest)
    return found[1] if found else run.data_digest


def _pairs(first: Side, second: Side) -> list[Pair]:
    if len(first.runs) == len(second.runs) == 1:
        return [(first.runs[0], second.runs[0])]
    theirs = {(run.cell, run.seed): run for run in second.runs}
    pairs = [
        (run, theirs[run.cell, run.seed])
        for run in sorted(first.runs, key=lambda run: (run.cell, run.seed))
        if (run.cell, run.seed) in theirs
    ]
    if len(pairs) >= 2 or (pairs and 1 in (len(first.runs), len(second.runs))):
        return pairs
    cells = [sorted({run.cell for run in side.runs}) for side in (first, second)]
    if cells[0] != cells[1] or len(cells[0]) > 1:
        told = "; ".join(
            f"{side.label} has {', '.join(names) if names != [''] else 'one cell'}"
            for side, names in zip((first, second), cells, strict=True)
        )
        raise UsageError(f"the two do not pair cell by cell: {told}; name one recipe of each")
    return []


def _by_images(ours: Sequence[PerImageResult], theirs: Sequence[PerImageResult]) -> list[Test]:
    if not all(_has_hits(run) for run in (*ours, *theirs)):
        return []
    if len(ours) == len(theirs) == 1:
        return [mcnemar(*_discordant(ours[0], theirs[0]), ours[0].n_total)]
    return [mcnemar_of_many([*map(_bits, ours)], [*map(_bits, theirs)], ours[0].n_total)]


def _by_seeds(
    ours: Sequence[PerImageResult], theirs: Sequence[PerImageResult], *, paired: bool
) -> list[Test]:
    if min(len(ours), len(theirs)) < 2:
        return []
    if paired:
        differences = [top1(a) - top1(b) for a, b in zip(ours, theirs, strict=True)]
        one_cell = len({run.cell for run in ours}) == 1
        return [paired_t(differences, "seeds" if one_cell else "cells and seeds")]
    return [welch([*map(top1, ours)], [*map(top1, theirs)])]


def _has_hits(run: PerImageResult) -> bool:
    return len(run.hits) == (run.n_total + 7) // 8


def _bits(run: PerImageResult) -> int:
    return int.from_bytes(run.hits, "big")


def _discordant(one: PerImageResult, other: PerImageResult) -> tuple[int, int]:
    """Return how many images only the one, and only the other gets right."""
    a, b = _bits(one), _bits(other)
    return (a & ~b).bit_count(), (b & ~a).bit_count()


def _verdict(test: Test) -> Verdict:
    if test.p >= LEVEL:
        return "undecided"
    return "better" if test.difference > 0 else "worse"


def _summary(side: Side, runs: Sequence[PerImageResult]) -> Summary:
    values = [*map(top1, runs)]
    seeds = tuple(sorted({run.seed for run in runs}))
    return Summary(side.label, len(runs), side.n_failed, seeds, mean(values), sample_std(values))


def _rows(
    pairs: Sequence[Pair], ours: Sequence[PerImageResult], theirs: Sequence[PerImageResult]
) -> Iterable[Row]:
    if pairs:
        return [_pair_row(*pair) for pair in pairs]
    return [
        *(Row(run.cell, run.seed, first_run=run.run_id, first_top1=top1(run)) for run in ours),
        *(Row(run.cell, run.seed, second_run=run.run_id, second_top1=top1(run)) for run in theirs),
    ]


def _pair_row(one: PerImageResult, other: PerImageResult) -> Row:
    hits = _has_hits(one) and _has_hits(other)
    only = _discordant(one, other) if hits else (None, None)
    return Row(
        one.cell,
        one.seed,
        one.run_id,
        other.run_id,
        top1(one),
        top1(other),
        difference=top1(one) - top1(other),
        only_first=only[0],
        only_second=only[1],
        p=mcnemar(*_discordant(one, other), one.n_total).p if hits else None,
    )


def _notes(*sides: tuple[Side, Sequence[PerImageResult]]) -> Iterable[str]:
    fewest = min(len(used) for _, used in sides)
    if fewest == 1:
        yield "one run a side tells two networks apart; recipes need three seeds or more of each"
    if fewest == 2:
        yield "two seeds say little of their spread; three seeds or more say whether it is luck"
    for side, used in sides:
        left_out = len(side.runs) - len(used)
        if left_out:
            yield f"{left_out} of {len(side.runs)} runs of {side.label} have no counterpart"
        if side.n_failed:
            yield f"{side.n_failed} failed runs of {side.label} are not in its mean"
        if any(run.selection == "best" for run in used):
            yield f"{side.label}: the epoch was chosen by looking at these images"
        yield from side.notes
    runs = [run for _, used in sides for run in used]
    if len({run.data_digest for run in runs}) > 1:
        yield "the training images differ"
    if len({run.preprocessing for run in runs}) > 1:
        yield "the images were prepared differently"
