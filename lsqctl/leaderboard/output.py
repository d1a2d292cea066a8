"""How a board is written: its options, its tables, its text in a format, the format of a file."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from lsqctl.discovery import all_plugins, plugin_faults
from lsqctl.errors import LsqctlError, PluginError, UsageError
from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.formats import FORMATS
from lsqctl.leaderboard.pivot import Pivot, pivot_view
from lsqctl.leaderboard.schema import check_column_names
from lsqctl.leaderboard.table_view import ViewTable, board_view, column_view
from lsqctl.text import did_you_mean


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How a board is written: these columns (none: those that fit the format), or as a pivot.

    ``raw`` leaves texts of a CSV unguarded. ``excel`` is what parts the fields of a CSV for Excel,
    empty for the contract's. Raises UsageError for what does not fit together.
    """

    columns: tuple[str, ...] = ()
    pivot: Pivot | None = None
    raw: bool = False
    excel: Literal["", ",", ";"] = ""

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
    """Return the board as text in one of FORMATS; the same board always gives the same text.

    Raises UsageError for a format that is no text.
    """
    if FORMATS.find(output_format).binary:
        raise UsageError(f"{output_format} is no text: write it to a file")
    text = _written(board, output_format, options)
    if not isinstance(text, str):
        raise PluginError(f"the format {output_format} wrote a {type(text).__name__}, no text")
    return text


def board_bytes(board: Board, output_format: str, options: OutputOptions) -> bytes:
    """Return the board as the bytes of a file, in any of FORMATS."""
    if not FORMATS.find(output_format).binary:
        text = format_board(board, output_format, options)
        return text.encode("utf-8", "backslashreplace")
    data = _written(board, output_format, options)
    if not isinstance(data, bytes):
        raise PluginError(f"the format {output_format} wrote a {type(data).__name__}, no bytes")
    return data


def _written(board: Board, output_format: str, options: OutputOptions) -> object:
    """Return what a format makes of a board."""
    info = FORMATS.find(output_format)
    if options.pivot or not info.deviations:
        _reject_deviations(board)
    if options.raw and not info.raw:
        raise UsageError("--raw is for CSV: no other format guards formulas")
    if options.excel and output_format != "csv":
        raise UsageError("--excel is for CSV; give the file the ending .csv")
    if (options.columns or options.pivot) and not info.columns:
        raise UsageError(f"{output_format} has its own columns; leave out --columns and --pivot")
    write = FORMATS.load(output_format)
    plugin = FORMATS.plugin_of(output_format)
    with plugin_faults(plugin):
        written: object = write(board, options)
    return written


def _reject_deviations(board: Board) -> None:
    if board.deviations:
        raise UsageError(
            "--deviations stand under the rows of a table: print it as table, md, html, latex or "
            "json, and without --pivot"
        )


def resolve_format(path: PurePath, output_format: str | None = None) -> str:
    """Return the format of a file: the one that was asked for, else by the file's ending."""
    if output_format is not None and output_format != "table":
        return output_format
    endings = {info.ending: name for name, info in FORMATS.items() if info.ending}
    if (ending := path.suffix.lower()) in endings:
        return endings[ending]
    if ending and (name := _plugin_format(ending)):
        return name
    raise UsageError(
        f"{path}: no format ends in `{ending or path.name}`{did_you_mean(ending, endings)}; "
        f"use {', '.join(endings)}, or say --format"
    )


def _plugin_format(ending: str) -> str | None:
    """Return the format of a plugin that declares an ending; what cannot be used declares none."""
    for plugin in all_plugins(FORMATS.group):
        with contextlib.suppress(LsqctlError):
            for name, info in FORMATS.plugin_infos(plugin).items():
                if info.ending == ending:
                    return name
    return None
