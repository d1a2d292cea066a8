"""Choose what is ranked: failed runs and published rows by the same filter as the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from lsqctl.events import BoardRow
from lsqctl.filters.judging import Known, Unknown, holds
from lsqctl.filters.tree import Node
from lsqctl.leaderboard.entries import published_entry
from lsqctl.leaderboard.references import PublishedResult
from lsqctl.leaderboard.shape import filter_value

# What is known of a run that ended without a result: its recipe, its seed, its code.
_FAILED_RUN_FIELDS: Mapping[str, str] = {
    "model": "name",
    "weight_bits": "weight_bits",
    "act_bits": "act_bits",
    **{name: name for name in ("run_id", "seed", "arch", "dataset", "recipe_sha256")},
    **{name: name for name in ("code_commit", "code_dirty", "created_at")},
}


def filter_failed_runs(rows: Sequence[BoardRow], where: Node | None) -> list[BoardRow]:
    """Return the rows with a result, which are chosen already, and the failed ones that belong.

    A failed run belongs if it passes, or if nobody can tell while its recipe has a row: so that
    a filter on what only results know drops no failed seed in silence.
    """
    if where is None:
        return list(rows)
    recipes_with_results = {row.recipe_sha256 for row in rows if row.n_total}
    return [
        row for row in rows if row.n_total or _failed_run_matches(row, where, recipes_with_results)
    ]


def filter_published(
    published: Iterable[PublishedResult], where: Node | None
) -> list[PublishedResult]:
    """Return the published rows that pass; what a source does not say is missing there."""
    if where is None:
        return list(published)
    return [result for result in published if _published_matches(result, where)]


def _failed_run_matches(row: BoardRow, where: Node, recipes_with_results: set[str]) -> bool:
    def value(name: str) -> Known:
        if name not in _FAILED_RUN_FIELDS:
            raise Unknown(name)
        field_value: Known = attrgetter(_FAILED_RUN_FIELDS[name])(row)
        return None if field_value == "" else field_value

    is_match = holds(where, value)
    return row.recipe_sha256 in recipes_with_results if is_match is None else is_match


def _published_matches(published: PublishedResult, where: Node) -> bool:
    entry = published_entry(published)
    return bool(holds(where, lambda name: filter_value(entry, name)))
