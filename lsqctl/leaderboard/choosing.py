"""Choose what is ranked: failed runs and published rows by the same filter as the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from lsqctl.events import BoardRow
from lsqctl.filters.judging import Known, Unknown, holds
from lsqctl.filters.tree import Node
from lsqctl.leaderboard.entries import published_entry
from lsqctl.leaderboard.references import Reference
from lsqctl.leaderboard.shape import entry_value

# What is known of a run that ended without a result: its recipe, its seed, its code.
_KNOWN: Mapping[str, str] = {
    "model": "name",
    "w_bits": "weight_bits",
    "a_bits": "act_bits",
    **{name: name for name in ("run_id", "seed", "arch", "dataset", "recipe_sha256")},
    **{name: name for name in ("code_commit", "code_dirty", "created_at")},
}


def choose_failed(rows: Sequence[BoardRow], where: Node | None) -> list[BoardRow]:
    """Return the rows with a result, which are chosen already, and the failed ones that belong.

    A failed run belongs if it passes, or if nobody can tell while its recipe has a row: so that
    a filter on what only results know drops no failed seed in silence.
    """
    if where is None:
        return list(rows)
    shown = {row.recipe_sha256 for row in rows if row.n_total}
    return [row for row in rows if row.n_total or _belongs(row, where, shown)]


def choose_references(references: Iterable[Reference], where: Node | None) -> list[Reference]:
    """Return the published rows that pass; what a source does not say is missing there."""
    if where is None:
        return list(references)
    return [one for one in references if _passes(one, where)]


def _belongs(row: BoardRow, where: Node, shown: set[str]) -> bool:
    def value(name: str) -> Known:
        if name not in _KNOWN:
            raise Unknown(name)
        found: Known = attrgetter(_KNOWN[name])(row)
        return None if found == "" else found

    passes = holds(where, value)
    return row.recipe_sha256 in shown if passes is None else passes


def _passes(reference: Reference, where: Node) -> bool:
    entry = published_entry(reference)
    return bool(holds(where, lambda name: entry_value(entry, name)))
