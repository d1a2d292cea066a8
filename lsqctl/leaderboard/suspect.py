"""Flag results that are too good, or no better than guessing: a reader should look twice."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from lsqctl.events import BoardRow
from lsqctl.leaderboard.board import Entry
from lsqctl.leaderboard.references import ABLATIONS, Reference
from lsqctl.leaderboard.statistics import percent

Yardsticks = dict[tuple[str, str, int, int, str], Reference]

SIGMAS = 3.0
_METHODS = {"lsq": "LSQ", "lsq+kd": "LSQ + distillation", "fp32": "full precision"}
_GUESSING = re.compile(r"(?:^|; )suspect: ")  # how training notes it in a result


def yardsticks(references: Iterable[Reference]) -> Yardsticks:
    """Return a paper's best row of each dataset, network, bits and method; ablations are none."""
    found: Yardsticks = {}
    for one in sorted(references, key=lambda one: one.top1):
        if one.source_kind == "paper" and one.page != ABLATIONS and one.n_total and one.arch:
            found[one.dataset, one.arch, one.weight_bits, one.act_bits, one.method] = one
    return found


def with_doubts(entry: Entry, runs: Sequence[BoardRow], papers: Yardsticks) -> Entry:
    """Return an own entry with ``suspect`` set, and why in its notes.

    It is held against its own start and the best of ``papers`` of its experiment. The standard
    deviation is that of one evaluation or of the seeds' mean, whichever is larger, and of the other
    row's evaluation.
    """
    doubts = [*_above_its_start(entry), *_above_the_paper(entry, papers)]
    guessing = any(_GUESSING.search(run.notes) for run in runs)
    notes = "; ".join(filter(None, [entry.notes, *doubts])) or None
    return replace(entry, suspect=guessing or bool(doubts), notes=notes)


def _above_its_start(entry: Entry) -> Iterable[str]:
    if entry.fp32_top1 is None or not entry.eval_n or entry.full_precision:
        return
    sigmas = _sigmas(entry, entry.fp32_top1, entry.eval_n)
    if sigmas > SIGMAS:
        yield f"suspect: {sigmas:.1f} standard deviations above its full-precision start"


def _above_the_paper(entry: Entry, papers: Yardsticks) -> Iterable[str]:
    method = _METHODS.get(entry.method or "", "")
    experiment = entry.dataset, entry.arch or "", entry.w_bits, entry.a_bits, method
    paper = papers.get(experiment)
    if paper is None or not paper.n_total:
        return
    sigmas = _sigmas(entry, paper.top1, paper.n_total)
    if sigmas > SIGMAS:
        yield f"suspect: {sigmas:.1f} standard deviations above {paper.model} of the paper"


def _sigmas(entry: Entry, other_top1: float, other_n: int) -> float:
    """Return how many standard deviations of the difference the entry lies above."""
    seeds = (entry.top1_std or 0.0) ** 2 / (entry.n_seeds or 1)
    one = _variance(entry.top1_mean, entry.eval_n or other_n)
    deviation = math.sqrt(max(seeds, one) + _variance(other_top1, other_n))
    return (entry.top1_mean - other_top1) / deviation


def _variance(top1: float, total: int) -> float:
    """Return the variance of a share in percent, as Agresti and Coull count: never zero."""
    share = (top1 / 100 * total + 2) / (total + 4)
    return percent(1, total + 4) * 100 * share * (1 - share)
