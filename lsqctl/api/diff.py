"""Say what differs between two runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsqctl.store import Store

_IGNORED = frozenset({"recipe.name", "recipe.description"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One key and its two values; None where a side has none."""

    key: str
    first: Any
    second: Any


def diff_runs(store: Store, first: str, second: str) -> list[Difference]:
    """Return what differs in recipe, snapshot, circumstances and results, by dotted key."""
    a, b = _facts(store, first), _facts(store, second)
    keys = [*a, *(key for key in b if key not in a)]
    return [
        Difference(key, a.get(key), b.get(key))
        for key in keys
        if a.get(key) != b.get(key) and key not in _IGNORED
    ]


def _facts(store: Store, run_id: str) -> dict[str, Any]:
    detail = store.detail(run_id)
    facts: dict[str, Any] = flatten({"recipe": detail.recipe, "submit": detail.snapshot})
    if detail.attempts:
        facts |= flatten({"attempt": detail.attempts[-1].circumstances})
    for one in store.result(run_id):
        facts[f"result.{one.variant}.{one.selection}.top1"] = 100 * one.n_correct / one.n_total
    return facts


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
