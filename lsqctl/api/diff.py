"""Say what differs between two runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsqctl.store import Store

_IGNORED_RUN_KEYS = frozenset({"recipe.name", "recipe.description"})


@dataclass(frozen=True, slots=True)
class RunDeviation:
    """One key and its two values; None where a side has none."""

    key: str
    left: Any
    right: Any


def diff_runs(store: Store, left_run_id: str, right_run_id: str) -> list[RunDeviation]:
    """Return what differs in recipe, provenance, environment and results, by dotted key."""
    left, right = _comparable_values(store, left_run_id), _comparable_values(store, right_run_id)
    keys = [*left, *(key for key in right if key not in left)]
    return [
        RunDeviation(key, left.get(key), right.get(key))
        for key in keys
        if left.get(key) != right.get(key) and key not in _IGNORED_RUN_KEYS
    ]


def _comparable_values(store: Store, run_id: str) -> dict[str, Any]:
    detail = store.detail(run_id)
    values: dict[str, Any] = flatten({"recipe": detail.recipe, "submit": detail.provenance})
    if detail.attempts:
        values |= flatten({"attempt": detail.attempts[-1].environment})
    for evaluation in store.evaluations(run_id):
        values[f"result.{evaluation.variant}.{evaluation.selection}.top1"] = 100 * evaluation.n_correct / evaluation.n_total
    return values


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
