"""The board as TSV: the columns of the CSV contract, parted by tabs."""

from __future__ import annotations

from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.formats import board_format
from lsqctl.leaderboard.formats.csv_text import pivot_csv, to_csv
from lsqctl.leaderboard.output import OutputOptions
from lsqctl.leaderboard.schema import COLUMN_NAMES


@board_format(
    "tsv",
    ending=".tsv",
    deviations=False,
    raw=True,
    description="the columns of the CSV, parted by tabs",
)
def write(board: Board, options: OutputOptions) -> str:
    """Return the board's columns, or its pivot."""
    if options.pivot:
        return pivot_csv(board, options.pivot, separator="\t")
    columns = options.columns or COLUMN_NAMES
    return to_csv(board, columns=columns, raw=options.raw, separator="\t")
