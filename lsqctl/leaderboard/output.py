"""One board in every format: which there are, the endings of their files, and what each takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from lsqctl.errors import UsageError, did_you_mean
from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.cards import to_hf_eval_results, to_hf_model_index, to_pwc_json
from lsqctl.leaderboard.chosen import chosen_view
from lsqctl.leaderboard.columns import NAMES, check_names
from lsqctl.leaderboard.formats import to_csv, to_json
from lsqctl.leaderboard.html import to_html
from lsqctl.leaderboard.latex import to_latex
from lsqctl.leaderboard.markdown import to_markdown
from lsqctl.leaderboard.pivot import Pivot, pivot_view
from lsqctl.leaderboard.pivot_data import pivot_csv, pivot_json
from lsqctl.leaderboard.view import ViewTable, view

ENDINGS: Mapping[str, str] = {
    ".csv": "csv",
    ".json": "json",
    ".md": "md",
    ".html": "html",
    ".tex": "latex",
}
_CARDS: Mapping[str, Callable[[Board], str]] = {
    "pwc-json": to_pwc_json,
    "hf-model-index": to_hf_model_index,
    "hf-eval-results": to_hf_eval_results,
}
_TABLES = {"md": to_markdown, "html": to_html, "latex": to_latex}
FORMATS: tuple[str, ...] = (*ENDINGS.values(), *_CARDS)


@dataclass(frozen=True, slots=True)
class Look:
    """How a board is written: these columns (none: those that fit the format), or as a pivot.

    ``raw`` leaves texts of a CSV unguarded. Raises UsageError for what does not fit together.
    """

    columns: tuple[str, ...] = ()
    pivot: Pivot | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        check_names(self.columns, "--columns")
        if self.columns and self.pivot:
            raise UsageError("choose either --columns or --pivot, not both")


PLAIN = Look()


def tables_of(board: Board, look: Look = PLAIN) -> tuple[ViewTable, ...]:
    """Return the board as tables to draw."""
    if look.pivot:
        _refuse_deviations(board)
        return pivot_view(board, look.pivot)
    return chosen_view(board, look.columns) if look.columns else view(board)


def write(board: Board, style: str, look: Look = PLAIN) -> str:
    """Return the board as text in one of FORMATS; the same board always gives the same text."""
    if style == "csv" or style in _CARDS:
        _refuse_deviations(board)
    if look.raw and style != "csv":
        raise UsageError("--raw is for CSV: no other format guards formulas")
    if style in _TABLES:
        return _TABLES[style](tables_of(board, look))
    if style in _CARDS:
        if look.columns or look.pivot:
            raise UsageError(f"{style} has its own columns; leave out --columns and --pivot")
        return _CARDS[style](board)
    if look.pivot:
        _refuse_deviations(board)
        return (pivot_csv if style == "csv" else pivot_json)(board, look.pivot)
    columns = look.columns or NAMES
    return (
        to_csv(board, columns=columns, raw=look.raw)
        if style == "csv"
        else to_json(board, columns=columns)
    )


def _refuse_deviations(board: Board) -> None:
    if board.departures:
        raise UsageError(
            "--deviations stand under the rows of a table: print it as table, md, html, latex or "
            "json, and without --pivot"
        )


def format_of(path: PurePath, style: str | None = None) -> str:
    """Return the format of a file: the one that was asked for, else by the file's ending."""
    ending = path.suffix.lower()
    if style is not None and style != "table":
        return style
    if ending in ENDINGS:
        return ENDINGS[ending]
    raise UsageError(
        f"{path}: no format ends in `{ending or path.name}`{did_you_mean(ending, ENDINGS)}; "
        f"use {', '.join(ENDINGS)}, or say --format"
    )
