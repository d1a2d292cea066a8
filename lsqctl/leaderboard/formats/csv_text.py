"""The board as CSV: the contract of docs/csv.md, one header, then the rows of all tables."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from types import SimpleNamespace

from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.formats import board_format
from lsqctl.leaderboard.output import OutputOptions
from lsqctl.leaderboard.pivot import Pivot, build_pivot, key_text
from lsqctl.leaderboard.run_group import Value
from lsqctl.leaderboard.schema import COLUMN_NAMES
from lsqctl.text import sanitize

# What a spreadsheet may take for a formula, perhaps after blanks.
_FORMULA_START = re.compile(r"\s*[=+\-@\t\r\0＝＋－＠]")


@board_format(
    "csv",
    ending=".csv",
    deviations=False,
    raw=True,
    description="every column of [the contract](csv.md)",
)
def write(board: Board, options: OutputOptions) -> str:
    """Return the board's columns, or its pivot; for Excel with a byte order mark."""
    text = separated(board, options, options.excel or ",")
    return f"\ufeff{text}" if options.excel else text


def separated(board: Board, options: OutputOptions, separator: str) -> str:
    """Return the board's columns, or its pivot, parted by ``separator``."""
    if options.pivot:
        return pivot_csv(board, options.pivot, separator=separator)
    columns = options.columns or COLUMN_NAMES
    return to_csv(board, columns=columns, raw=options.raw, separator=separator)


def to_csv(
    board: Board,
    *,
    columns: Sequence[str] = COLUMN_NAMES,
    raw: bool = False,
    separator: str = ",",
) -> str:
    """Return the board in the CSV contract: one header, then the rows of all tables.

    LF, RFC 4180, empty for missing, shortest floats that read back the same. In texts, what could
    move a cursor is written out (``\\x1b``), and what a spreadsheet could take for a formula
    gets a leading ``'``; ``raw`` leaves them as they are. Another ``separator`` than a comma is no
    part of the contract.
    """
    rows = [[getattr(entry, name) for name in columns] for entry in board.entries]
    return csv_text([columns, *rows], raw=raw, separator=separator)


def csv_text(rows: Iterable[Sequence[Value]], *, raw: bool = False, separator: str = ",") -> str:
    """Return rows as CSV, each ended by LF; texts as ``to_csv`` says.

    Where a semicolon parts the fields, a comma parts the digits, as Excel reads it there.
    """
    lines: list[str] = []
    # the writer quotes a letter of its line's end: of CR LF, which no reader may take for one
    writer = csv.writer(
        SimpleNamespace(write=lines.append), lineterminator="\r\n", delimiter=separator
    )
    cells = ([_csv_cell(value, raw=raw) for value in row] for row in rows)
    if separator == ";":
        cells = ([_decimal_comma(cell) for cell in row] for row in cells)
    writer.writerows(cells)
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def _csv_cell(value: Value, *, raw: bool) -> Value:
    if isinstance(value, bool):
        return "true" if value else "false"
    return guard_formula(sanitize(value)) if isinstance(value, str) and not raw else value


def _decimal_comma(value: Value) -> Value:
    return repr(value).replace(".", ",") if isinstance(value, float) else value


def guard_formula(text: str) -> str:
    """Return ``text`` with a leading ``'`` if a spreadsheet could take it for a formula.

    >>> guard_formula("=1+1"), guard_formula("plain")
    ("'=1+1", 'plain')
    """
    return f"'{text}" if _FORMULA_START.match(text) else text


def pivot_csv(board: Board, pivot: Pivot, *, separator: str = ",") -> str:
    """Return one line a dataset and row; a column for each key, as ``weight_bits=4``."""
    pivot_tables = build_pivot(board, pivot)
    keys = list(dict.fromkeys(key for pivot_table in pivot_tables for key in pivot_table.columns))
    heads = ["dataset", pivot.row, *(f"{pivot.column}={key_text(key)}" for key in keys)]
    lines: list[list[Value]] = [list(heads)]
    for pivot_table in pivot_tables:
        for row in pivot_table.rows:
            entries = (pivot_table.cells.get((row, key)) for key in keys)
            values = (None if entry is None else getattr(entry, pivot.value) for entry in entries)
            lines.append([pivot_table.table.dataset, key_text(row), *values])
    return csv_text(lines, separator=separator)
