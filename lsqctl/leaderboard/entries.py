"""Make one entry of the board from the runs of a recipe, or from a published row; no ranks yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from lsqctl.events import BoardRow
from lsqctl.leaderboard.board import Entry
from lsqctl.leaderboard.columns import NAMES
from lsqctl.leaderboard.references import Reference
from lsqctl.leaderboard.statistics import interval, mean, percent, sample_std, wilson_interval

T = TypeVar("T")

_UNKNOWN: dict[str, Any] = dict.fromkeys(NAMES)


def own_entry(runs: Sequence[BoardRow], *, n_failed: int = 0, best_of: int = 1) -> Entry:
    """Return the entry of one group: succeeded runs of one recipe, at most one a seed.

    ``best_of`` above 1 says that ``runs`` is the best of so many seeds; the entry's notes tell.
    """
    runs = sorted(runs, key=lambda run: (run.seed, run.run_id))
    newest = max(runs, key=newness)
    selection = f"best of {best_of} seeds" if best_of > 1 else ""
    values = {
        **_UNKNOWN,
        **_recipe_facts(runs, newest),
        **_accuracy(runs),
        **_circumstances(runs),
        **_provenance(runs),
        "state": str(newest.state),
        "n_failed": n_failed,
        "notes": _joined([selection, *(run.notes for run in runs)]),
        "origin": "own",
        "selected_on_test": any(run.selection == "best" for run in runs),
        "top1_last_epoch": _mean_share(runs, "n_correct_last"),
        "top1_best_epoch": _mean_share(runs, "n_correct_best"),
    }
    return Entry(**values)


def published_entry(reference: Reference) -> Entry:
    """Return the entry of a published row; its interval is Wilson's where n_total is known."""
    top1, fp32, total = reference.top1, reference.fp32_top1, reference.n_total
    low, high = wilson_interval(top1 / 100 * total, total) if total else (None, None)
    values = {
        **_UNKNOWN,
        "model": reference.model,
        "arch": reference.arch or None,
        "dataset": reference.dataset,
        "method": reference.method or None,
        "w_bits": reference.weight_bits,
        "a_bits": reference.act_bits,
        "top1_mean": float(top1),
        "top1_ci95_lo": None if low is None else min(low, float(top1)),
        "top1_ci95_hi": None if high is None else max(high, float(top1)),
        "top5_mean": _number(reference.top5),
        "fp32_top1": _number(fp32),
        "delta_fp32": None if fp32 is None else top1 - fp32,
        "eval_n": total,
        "notes": reference.notes or None,
        "origin": "published",
        "source_kind": reference.source_kind,
        "source_url": reference.source_url,
    }
    return Entry(**values)


def newness(run: BoardRow) -> tuple[datetime, str, str, str]:
    """Return a key that orders runs by age, the newest last."""
    return _utc(run.created_at), run.run_id, run.variant, run.selection


def top1(run: BoardRow) -> float:
    """Return the Top-1 of a run that has counts, in percent."""
    if run.n_correct is None or not run.n_total:
        raise ValueError(f"run {run.run_id} has no counts")
    return percent(run.n_correct, run.n_total)


def best_run(runs: Iterable[BoardRow]) -> BoardRow:
    """Return the run with the highest Top-1; of equal ones that of the lowest seed."""
    return min(runs, key=lambda run: (-top1(run), run.seed, run.run_id))


def _recipe_facts(runs: Sequence[BoardRow], newest: BoardRow) -> dict[str, Any]:
    # The name is no part of the recipe's hash: a renamed recipe is shown by its newest name.
    macs, bops = _known(run.macs for run in runs), _known(run.bops for run in runs)
    return {
        "model": newest.name,
        "arch": newest.arch or None,
        "dataset": newest.dataset,
        "split": _joined(run.split for run in runs),
        "method": _joined(run.method for run in runs),
        "w_bits": newest.weight_bits,
        "a_bits": newest.act_bits,
        "first_last_bits": _joined(run.first_last_bits for run in runs),
        "granularity": _joined(run.granularity for run in runs),
        "params": _known(run.params for run in runs),
        "size_bytes": _known(run.size_bytes for run in runs),
        "gmacs": None if macs is None else macs / 1e9,
        "gbops": None if bops is None else bops / 1e9,
        "epochs": _known(run.epochs for run in runs),
        "recipe_sha256": newest.recipe_sha256,
    }


def _accuracy(runs: Sequence[BoardRow]) -> dict[str, Any]:
    values = [top1(run) for run in runs]
    eval_n = min(run.n_total for run in runs if run.n_total)
    low, high = interval(values, eval_n)
    fp32, best = _mean_fp32(runs), best_run(runs)
    return {
        "top1_mean": mean(values),
        "top1_std": sample_std(values),
        "top1_ci95_lo": low,
        "top1_ci95_hi": high,
        "n_seeds": len(runs),
        "seeds": " ".join(str(run.seed) for run in runs),
        "top1_best": top1(best),
        "best_run": best.run_id,
        "top5_mean": _mean_share(runs, "n_correct_top5"),
        "fp32_top1": fp32,
        "delta_fp32": None if fp32 is None else mean(values) - fp32,
        "eval_n": eval_n,
    }


def _circumstances(runs: Sequence[BoardRow]) -> dict[str, Any]:
    hours = [run.train_seconds / 3600 for run in runs if run.train_seconds is not None]
    peaks = [run.peak_mem_bytes for run in runs if run.peak_mem_bytes is not None]
    return {
        "train_gpu_h": mean(hours) if hours else None,
        "peak_mem_bytes": max(peaks, default=None),
        "device": _joined(run.device for run in runs),
        "torch": _joined(run.torch for run in runs),
        "precision": _joined(run.precision for run in runs),
        "deterministic": _joined(run.deterministic for run in runs),
    }


def _provenance(runs: Sequence[BoardRow]) -> dict[str, Any]:
    best = best_run(runs)
    dirty = [run.code_dirty for run in runs if run.code_dirty is not None]
    checks = {run.verified for run in runs}
    return {
        "verified": False if False in checks else True if checks == {True} else None,
        "checkpoint_sha256": best.checkpoint_sha256 or None,
        "checkpoint_path": best.checkpoint_path or None,
        "code_commit": _joined(run.code_commit for run in runs),
        "code_dirty": any(dirty) if dirty else None,
        "created_at": max(_utc(run.created_at) for run in runs).isoformat(),
    }


def _mean_fp32(runs: Sequence[BoardRow]) -> float | None:
    starts = [
        percent(run.fp32_n_correct, run.fp32_n_total)
        for run in runs
        if run.fp32_n_correct is not None and run.fp32_n_total
    ]
    return mean(starts) if starts else None


def _mean_share(runs: Sequence[BoardRow], count: str) -> float | None:
    """Return the mean of a count in percent, or None unless every run has it."""
    found = [
        percent(getattr(run, count), run.n_total)
        for run in runs
        if getattr(run, count) is not None and run.n_total
    ]
    return mean(found) if len(found) == len(runs) else None


def _known(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def _joined(texts: Iterable[str]) -> str | None:
    return "; ".join(dict.fromkeys(text for text in texts if text)) or None


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
