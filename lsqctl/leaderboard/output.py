"""One board in every format: which there are, the endings of their files, and what each takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from lsqctl.errors import UsageError
from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.csv_json import to_csv, to_json
from lsqctl.leaderboard.html import to_html
from lsqctl.leaderboard.latex import to_latex
from lsqctl.leaderboard.markdown import to_markdown
from lsqctl.leaderboard.model_cards import to_hf_eval_results, to_hf_model_index, to_pwc_json
from lsqctl.leaderboard.pivot import Pivot, pivot_csv, pivot_json, pivot_view
from lsqctl.leaderboard.schema import COLUMN_NAMES, check_column_names
from lsqctl.leaderboard.table_view import ViewTable, board_view, column_view
from lsqctl.text import did_you_mean

ENDING_FORMATS: Mapping[str, str] = {
    ".csv": "csv",
    ".json": "json",
    ".md": "md",
    ".html": "html",
    ".tex": "latex",
}
_CARD_WRITERS: Mapping[str, Callable[[Board], str]] = {
    "pwc-json": to_pwc_json,
    "hf-model-index": to_hf_model_index,
    "hf-eval-results": to_hf_eval_results,
}
_TABLE_WRITERS = {"md": to_markdown, "html": to_html, "latex": to_latex}
FORMATS: tuple[str, ...] = (*ENDING_FORMATS.values(), *_CARD_WRITERS)


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How a board is written: these columns (none: those that fit the format), or as a pivot.

    ``raw`` leaves texts of a CSV unguarded. Raises UsageError for what does not fit together.
    """

    columns: tuple[str, ...] = ()
    pivot: Pivot | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        check_column_names(self.columns, "--columns")
        if self.columns and self.pivot:
            raise UsageError("choose either --columns or --pivot, not both")


DEFAULT_OPTIONS = OutputOptions()


def board_tables(board: Board, options: OutputOptions = DEFAULT_OPTIONS) -> tuple[ViewTable, ...]:
    """Return the board as tables to draw."""
    if options.pivot:
        _reject_deviations(board)
        return pivot_view(board, options.pivot)
    return column_view(board, options.columns) if options.columns else board_view(board)


def format_board(board: Board, output_format: str, options: OutputOptions = DEFAULT_OPTIONS) -> str:
    """Return the board as text in one of FORMATS; the same board always gives the same text."""
    if output_format == "csv" or output_format in _CARD_WRITERS:
        _reject_deviations(board)
    if options.raw and output_format != "csv":
        raise UsageError("--raw is for CSV: no other format guards formulas")
    if output_format in _TABLE_WRITERS:
        return _TABLE_WRITERS[output_format](board_tables(board, options))
    if output_format in _CARD_WRITERS:
        if options.columns or options.pivot:
            raise UsageError(
                f"{output_format} has its own columns; leave out --columns and --pivot"
            )
        return _CARD_WRITERS[output_format](board)
    if options.pivot:
        _reject_deviations(board)
        return (pivot_csv if output_format == "csv" else pivot_json)(board, options.pivot)
    columns = options.columns or COLUMN_NAMES
    return (
        to_csv(board, columns=columns, raw=options.raw)
        if output_format == "csv"
        else to_json(board, columns=columns)
    )


def _reject_deviations(board: Board) -> None:
    if board.deviations:
        raise UsageError(
            "--deviations stand under the rows of a table: print it as table, md, html, latex or "
            "json, and without --pivot"
        )


def resolve_format(path: PurePath, output_format: str | None = None) -> str:
    """Return the format of a file: the one that was asked for, else by the file's ending."""
    ending = path.suffix.lower()
    if output_format is not None and output_format != "table":
        return output_format
    if ending in ENDING_FORMATS:
        return ENDING_FORMATS[ending]
    raise UsageError(
        f"{path}: no format ends in `{ending or path.name}`{did_you_mean(ending, ENDING_FORMATS)}; "
        f"use {', '.join(ENDING_FORMATS)}, or say --format"
    )
