"""Under each own row of the board: where its recipe departs from the paper's at the same bits."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from lsqctl.api.recipe_diff import Side, base_side, compare, run_side
from lsqctl.errors import NotFound
from lsqctl.leaderboard.board import Board, Departure, Entry
from lsqctl.recipe_file.writing import scalar

if TYPE_CHECKING:
    from lsqctl.store import Store


def with_deviations(board: Board, store: Store) -> Board:
    """Return the board with what each of its own rows does otherwise than the paper's recipe.

    A row is compared by the run that stands for it. Of bits for which the paper has no recipe,
    ``Departure.base`` is empty.
    """
    own = {entry.best_run: entry for entry in board.entries if entry.own and entry.best_run}
    return replace(board, departures={run: _departure(entry, store) for run, entry in own.items()})


def _departure(entry: Entry, store: Store) -> Departure:
    theirs = _base("fp32" if entry.full_precision else f"w{entry.w_bits}a{entry.a_bits}")
    if theirs is None:
        return Departure("", ())
    found = compare(run_side(store.detail(str(entry.best_run))), theirs).deviations
    keys = ((one.key, _text(one.mine), _text(one.theirs)) for one in found)
    return Departure(theirs.name, tuple(keys))


@lru_cache(maxsize=64)
def _base(bits: str) -> Side | None:
    try:
        return base_side(f"paper/{bits}")
    except NotFound:
        return None


def _text(value: object) -> str:
    return "none" if value is None else scalar(value)
