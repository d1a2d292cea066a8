"""The board as one HTML page, with what its best runs did over time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.api.outfile import write_atomic
from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.charts.history import step_sizes, training_curves
from lsqctl.leaderboard.page.content import History
from lsqctl.leaderboard.page.rendering import Live, render

if TYPE_CHECKING:
    from lsqctl.store import Store

MAX_HISTORIES = 24


def render_page(store: Store, board: Board, *, live: Live | None = None) -> str:
    """Return the page of a board; the same database and board always give the same text."""
    return render(board, run_histories(store, board), live=live)


def write_page(store: Store, board: Board, path: Path, *, force: bool = False) -> int:
    """Write the page to a file and return the number of bytes.  Raises UsageError."""
    data = render_page(store, board).encode()
    write_atomic(path, data, force=force)
    return len(data)


def run_histories(store: Store, board: Board) -> Iterator[History]:
    """Yield the history of the best run of own rows: the first of each dataset, then the second."""
    rows_by_table = [[row for row in table.rows if row.own and row.best_run] for table in board.tables]
    interleaved = chain.from_iterable(zip_longest(*rows_by_table))
    for row in islice((row for row in interleaved if row is not None), MAX_HISTORIES):
        curves = run_history(store, row.best_run or "", row.model)
        if curves.charts:
            yield curves


def run_history(store: Store, run_id: str, model: str) -> History:
    """Return the charts of one run: Top-1, loss, and its step sizes where they were recorded."""
    charts = training_curves(store.metrics(run_id))
    return History(run_id, model, (*charts, *step_sizes(store.quantizer_stats(run_id))))
