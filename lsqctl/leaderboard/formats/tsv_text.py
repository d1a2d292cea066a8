"""The board as TSV: the columns of the CSV contract, parted by tabs."""

from __future__ import annotations

from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.formats import board_format
from lsqctl.leaderboard.formats.csv_text import separated
from lsqctl.leaderboard.output import OutputOptions


@board_format(
    "tsv",
    ending=".tsv",
    deviations=False,
    raw=True,
    description="the columns of the CSV, parted by tabs",
)
def write(board: Board, options: OutputOptions) -> str:
    """Return the board's columns, or its pivot."""
    return separated(board, options, "\t")
