"""Make one row of the board from a group of runs or a published result, and flag suspects."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

from lsqctl.leaderboard.published_results import ABLATIONS_PAGE, PublishedResult
from lsqctl.leaderboard.run_group import RunGroup, Value
from lsqctl.leaderboard.schema import COLUMNS, Entry
from lsqctl.leaderboard.statistics import percent


def local_entry(group: RunGroup) -> Entry:
    """Return the row of a group of runs; what is set after ranking is None."""
    values: dict[str, Value] = {
        column.name: column.spec.source.of_group(group) if column.spec.source else None
        for column in COLUMNS
    }
    return Entry(**values)  # type: ignore[arg-type]  # the schema says which column has which type


def published_entry(result: PublishedResult) -> Entry:
    """Return the row of a published result; its interval is Wilson's where n_total is known."""
    values: dict[str, Value] = {
        column.name: column.spec.published(result) if column.spec.published else None
        for column in COLUMNS
    }
    return Entry(**values)  # type: ignore[arg-type]  # as above


def undominated(entries: Iterable[Entry], cost: str) -> list[Entry]:
    """Return the entries with a ``cost`` that no other dominates; accuracies that tie are equal.

    An entry is dominated by a cheaper one that is not wholly below it, and by one of equal cost
    that is wholly above it.
    """

    def cost_of(entry: Entry) -> float:
        return float(getattr(entry, cost))

    with_cost = [entry for entry in entries if getattr(entry, cost) is not None]
    kept, cheaper_high = [], float("-inf")
    for _, group in groupby(sorted(with_cost, key=cost_of), key=cost_of):
        equal_cost = list(group)
        best_low = max(entry.interval_low for entry in equal_cost)
        kept += [
            entry
            for entry in equal_cost
            if cheaper_high < entry.interval_low and best_low <= entry.interval_high
        ]
        cheaper_high = max(cheaper_high, *(entry.interval_high for entry in equal_cost))
    return kept


PaperBaselines = dict[tuple[str, str, int, int, str], PublishedResult]

MAX_SIGMAS = 3.0
_PAPER_METHODS = {"lsq": "LSQ", "lsq+kd": "LSQ + distillation", "fp32": "full precision"}
_CHANCE_NOTE = re.compile(r"(?:^|; )suspect: ")  # how training notes it in a result


def paper_baselines(published: Iterable[PublishedResult]) -> PaperBaselines:
    """Return a paper's best row of each dataset, network, bits and method; ablations are none."""
    baselines: PaperBaselines = {}
    for result in sorted(published, key=lambda result: result.top1):
        if (
            result.source_kind == "paper"
            and result.page != ABLATIONS_PAGE
            and result.n_total
            and result.arch
        ):
            baselines[
                result.dataset, result.arch, result.weight_bits, result.act_bits, result.method
            ] = result
    return baselines


def flag_suspect(entry: Entry, group: RunGroup, baselines: PaperBaselines) -> Entry:
    """Return a local entry with ``suspect`` set, and why in its notes.

    It is held against its own start and the best of ``baselines`` of its experiment. The standard
    deviation is that of one evaluation or of the seeds' mean, whichever is larger, and of the other
    row's evaluation.
    """
    reasons = [*_reasons_by_start(entry), *_reasons_by_paper(entry, baselines)]
    is_chance = any(_CHANCE_NOTE.search(run.notes) for run in group.runs)
    notes = "; ".join(filter(None, [entry.notes, *reasons])) or None
    return replace(entry, suspect=is_chance or bool(reasons), notes=notes)


def _reasons_by_start(entry: Entry) -> Iterable[str]:
    if entry.fp32_top1 is None or not entry.eval_n or entry.is_full_precision:
        return
    sigmas = _sigmas_above(entry, entry.fp32_top1, entry.eval_n)
    if sigmas > MAX_SIGMAS:
        yield f"suspect: {sigmas:.1f} standard deviations above its full-precision start"


def _reasons_by_paper(entry: Entry, baselines: PaperBaselines) -> Iterable[str]:
    method = _PAPER_METHODS.get(entry.method or "", "")
    experiment = entry.dataset, entry.arch or "", entry.weight_bits, entry.act_bits, method
    paper = baselines.get(experiment)
    if paper is None or not paper.n_total:
        return
    sigmas = _sigmas_above(entry, paper.top1, paper.n_total)
    if sigmas > MAX_SIGMAS:
        yield f"suspect: {sigmas:.1f} standard deviations above {paper.model} of the paper"


def _sigmas_above(entry: Entry, other_top1: float, other_n: int) -> float:
    """Return how many standard deviations of the difference the entry lies above."""
    seed_variance = (entry.top1_std or 0.0) ** 2 / (entry.n_seeds or 1)
    evaluation_variance = _top1_variance(entry.top1_mean, entry.eval_n or other_n)
    std = math.sqrt(max(seed_variance, evaluation_variance) + _top1_variance(other_top1, other_n))
    return (entry.top1_mean - other_top1) / std


def _top1_variance(top1: float, n_total: int) -> float:
    """Return the variance of a share in percent, as Agresti and Coull count: never zero."""
    proportion = (top1 / 100 * n_total + 2) / (n_total + 4)
    return percent(1, n_total + 4) * 100 * proportion * (1 - proportion)
