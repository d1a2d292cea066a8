"""Under each own row of the board: where its recipe departs from the paper's at the same bits."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from lsqctl.api.recipe_diff import DiffSide, base_side, diff_sides, run_side
from lsqctl.errors import NotFound
from lsqctl.leaderboard.board import Board, Departure, Entry
from lsqctl.recipe_file.writing import scalar

if TYPE_CHECKING:
    from lsqctl.store import Store


def with_deviations(board: Board, store: Store) -> Board:
    """Return the board with the deviations of each of its local rows from the paper's recipe.

    A row is compared by the run that stands for it. Of bits for which the paper has no recipe,
    ``base`` is empty.
    """
    local_entries = {entry.best_run: entry for entry in board.entries if entry.own and entry.best_run}
    return replace(board, departures={run: _deviations_from_paper(entry, store) for run, entry in local_entries.items()})


def _deviations_from_paper(entry: Entry, store: Store) -> Departure:
    paper = _paper_side("fp32" if entry.full_precision else f"w{entry.w_bits}a{entry.a_bits}")
    if paper is None:
        return Departure("", ())
    deviations = diff_sides(run_side(store.detail(str(entry.best_run))), paper).deviations
    texts = ((deviation.key, _value_text(deviation.left), _value_text(deviation.right)) for deviation in deviations)
    return Departure(paper.name, tuple(texts))


@lru_cache(maxsize=64)
def _paper_side(bits: str) -> DiffSide | None:
    try:
        return base_side(f"paper/{bits}")
    except NotFound:
        return None


def _value_text(value: object) -> str:
    return "none" if value is None else scalar(value)
