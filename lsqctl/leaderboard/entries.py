"""Make one entry of the board from a recipe's runs or a published result, and flag suspects."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from lsqctl.events import BoardRow
from lsqctl.leaderboard.board import COLUMN_NAMES, Entry
from lsqctl.leaderboard.published_results import ABLATIONS_PAGE, PublishedResult
from lsqctl.leaderboard.statistics import mean, percent, sample_std, top1_interval, wilson_interval

T = TypeVar("T")

_EMPTY_VALUES: dict[str, Any] = dict.fromkeys(COLUMN_NAMES)


def local_entry(runs: Sequence[BoardRow], *, n_failed: int = 0, best_of: int = 1) -> Entry:
    """Return the entry of one group: succeeded runs of one recipe, at most one a seed.

    ``best_of`` above 1 says that ``runs`` is the best of so many seeds; the entry's notes tell.
    """
    runs = sorted(runs, key=lambda run: (run.seed, run.run_id))
    newest = max(runs, key=recency_key)
    best_seed_note = f"best of {best_of} seeds" if best_of > 1 else ""
    values = {
        **_EMPTY_VALUES,
        **_recipe_values(runs, newest),
        **_accuracy_values(runs),
        **_environment_values(runs),
        **_provenance_values(runs),
        "state": str(newest.state),
        "n_failed": n_failed,
        "notes": _join_distinct([best_seed_note, *(run.notes for run in runs)]),
        "origin": "local",
        "selected_on_test": any(run.selection == "best" for run in runs),
        "top1_last_epoch": _mean_percent(runs, "n_correct_last"),
        "top1_best_epoch": _mean_percent(runs, "n_correct_best"),
    }
    return Entry(**values)


def published_entry(published: PublishedResult) -> Entry:
    """Return the entry of a published row; its interval is Wilson's where n_total is known."""
    top1, fp32, n_total = published.top1, published.fp32_top1, published.n_total
    low, high = wilson_interval(top1 / 100 * n_total, n_total) if n_total else (None, None)
    values = {
        **_EMPTY_VALUES,
        "model": published.model,
        "arch": published.arch or None,
        "dataset": published.dataset,
        "method": published.method or None,
        "weight_bits": published.weight_bits,
        "act_bits": published.act_bits,
        "top1_mean": float(top1),
        "top1_ci95_lo": None if low is None else min(low, float(top1)),
        "top1_ci95_hi": None if high is None else max(high, float(top1)),
        "top5_mean": _to_float(published.top5),
        "fp32_top1": _to_float(fp32),
        "delta_fp32": None if fp32 is None else top1 - fp32,
        "eval_n": n_total,
        "notes": published.notes or None,
        "origin": "published",
        "source_kind": published.source_kind,
        "source_url": published.source_url,
    }
    return Entry(**values)


def recency_key(run: BoardRow) -> tuple[datetime, str, str, str]:
    """Return a key that orders runs by age, the newest last."""
    return _to_utc(run.created_at), run.run_id, run.variant, run.selection


def top1_percent(run: BoardRow) -> float:
    """Return the Top-1 of a run that has counts, in percent."""
    if run.n_correct is None or not run.n_total:
        raise ValueError(f"run {run.run_id} has no counts")
    return percent(run.n_correct, run.n_total)


def select_best_run(runs: Iterable[BoardRow]) -> BoardRow:
    """Return the run with the highest Top-1; of equal ones that of the lowest seed."""
    return min(runs, key=lambda run: (-top1_percent(run), run.seed, run.run_id))


def _recipe_values(runs: Sequence[BoardRow], newest: BoardRow) -> dict[str, Any]:
    # The name is no part of the recipe's hash: a renamed recipe is shown by its newest name.
    macs, bops = (
        _first_not_none(run.macs for run in runs),
        _first_not_none(run.bops for run in runs),
    )
    return {
        "model": newest.name,
        "arch": newest.arch or None,
        "dataset": newest.dataset,
        "split": _join_distinct(run.split for run in runs),
        "method": _join_distinct(run.method for run in runs),
        "weight_bits": newest.weight_bits,
        "act_bits": newest.act_bits,
        "first_last_bits": _join_distinct(run.first_last_bits for run in runs),
        "granularity": _join_distinct(run.granularity for run in runs),
        "params": _first_not_none(run.params for run in runs),
        "size_bytes": _first_not_none(run.size_bytes for run in runs),
        "gmacs": None if macs is None else macs / 1e9,
        "gbops": None if bops is None else bops / 1e9,
        "epochs": _first_not_none(run.epochs for run in runs),
        "recipe_sha256": newest.recipe_sha256,
    }


def _accuracy_values(runs: Sequence[BoardRow]) -> dict[str, Any]:
    values = [top1_percent(run) for run in runs]
    eval_n = min(run.n_total for run in runs if run.n_total)
    low, high = top1_interval(values, eval_n)
    fp32, best_seed_run = _mean_fp32(runs), select_best_run(runs)
    return {
        "top1_mean": mean(values),
        "top1_std": sample_std(values),
        "top1_ci95_lo": low,
        "top1_ci95_hi": high,
        "n_seeds": len(runs),
        "seeds": " ".join(str(run.seed) for run in runs),
        "top1_best": top1_percent(best_seed_run),
        "best_run": best_seed_run.run_id,
        "top5_mean": _mean_percent(runs, "n_correct_top5"),
        "fp32_top1": fp32,
        "delta_fp32": None if fp32 is None else mean(values) - fp32,
        "eval_n": eval_n,
    }


def _environment_values(runs: Sequence[BoardRow]) -> dict[str, Any]:
    hours = [run.train_seconds / 3600 for run in runs if run.train_seconds is not None]
    peaks = [run.peak_mem_bytes for run in runs if run.peak_mem_bytes is not None]
    return {
        "train_gpu_h": mean(hours) if hours else None,
        "peak_mem_bytes": max(peaks, default=None),
        "device": _join_distinct(run.device for run in runs),
        "torch": _join_distinct(run.torch for run in runs),
        "precision": _join_distinct(run.precision for run in runs),
        "deterministic": _join_distinct(run.deterministic for run in runs),
    }


def _provenance_values(runs: Sequence[BoardRow]) -> dict[str, Any]:
    best_seed_run = select_best_run(runs)
    dirty_flags = [run.code_dirty for run in runs if run.code_dirty is not None]
    verifications = {run.verified for run in runs}
    return {
        "verified": False if False in verifications else True if verifications == {True} else None,
        "checkpoint_sha256": best_seed_run.checkpoint_sha256 or None,
        "checkpoint_path": best_seed_run.checkpoint_path or None,
        "code_commit": _join_distinct(run.code_commit for run in runs),
        "code_dirty": any(dirty_flags) if dirty_flags else None,
        "created_at": max(_to_utc(run.created_at) for run in runs).isoformat(),
    }


def _mean_fp32(runs: Sequence[BoardRow]) -> float | None:
    fp32_percents = [
        percent(run.fp32_n_correct, run.fp32_n_total)
        for run in runs
        if run.fp32_n_correct is not None and run.fp32_n_total
    ]
    return mean(fp32_percents) if fp32_percents else None


def _mean_percent(runs: Sequence[BoardRow], field: str) -> float | None:
    """Return the mean of a count in percent, or None unless every run has it."""
    percents = [
        percent(getattr(run, field), run.n_total)
        for run in runs
        if getattr(run, field) is not None and run.n_total
    ]
    return mean(percents) if len(percents) == len(runs) else None


def _first_not_none(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def _join_distinct(texts: Iterable[str]) -> str | None:
    return "; ".join(dict.fromkeys(text for text in texts if text)) or None


def _to_float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _to_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


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


def flag_suspect(entry: Entry, runs: Sequence[BoardRow], baselines: PaperBaselines) -> Entry:
    """Return a local entry with ``suspect`` set, and why in its notes.

    It is held against its own start and the best of ``baselines`` of its experiment. The standard
    deviation is that of one evaluation or of the seeds' mean, whichever is larger, and of the other
    row's evaluation.
    """
    reasons = [*_reasons_by_start(entry), *_reasons_by_paper(entry, baselines)]
    is_chance = any(_CHANCE_NOTE.search(run.notes) for run in runs)
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
