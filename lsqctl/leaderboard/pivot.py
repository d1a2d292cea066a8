"""Cross two columns of a board: the best row's value where both meet, drawn, as CSV and JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lsqctl.errors import UsageError
from lsqctl.leaderboard.board import Board, Table
from lsqctl.leaderboard.run_group import Value
from lsqctl.leaderboard.schema import Entry, check_column_names
from lsqctl.leaderboard.table_view import (
    MISSING,
    Cell,
    ViewColumn,
    ViewTable,
    half_width_text,
    table_title,
    value_cell,
)
from lsqctl.text import sanitize

PivotKey = Value
_DIGITS = re.compile("([0-9]{1,18})")
BITS = "bits"  # weight and activation bits as one: W3A4
_BITS_SUFFIX = re.compile(r"[-+_ ]?w[0-9]+a[0-9]+\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Pivot:
    """Which columns cross, and what stands where they meet.

    ``bits`` is W and A as one. ``model`` goes without its ending in bits, so that the cells of a
    sweep share a row. Raises UsageError for an unknown column.
    """

    row: str
    column: str
    value: str = "top1_mean"

    def __post_init__(self) -> None:
        check_column_names((self.row, self.column), "--pivot", (BITS,))
        check_column_names((self.value,), "--pivot")
        if self.row == self.column:
            raise UsageError(f"--pivot: `{self.row}` cannot cross itself; name two columns")


@dataclass(frozen=True, slots=True)
class PivotTable:
    """One dataset's pivot. ``cells`` holds the best row of each (row, column) that has one."""

    table: Table
    rows: tuple[PivotKey, ...]
    columns: tuple[PivotKey, ...]
    cells: dict[tuple[PivotKey, PivotKey], Entry]


def build_pivot(board: Board, pivot: Pivot) -> tuple[PivotTable, ...]:
    """Return a crossing a table: bits and numbers ascending, other rows by their best entry."""
    return tuple(_pivot_table(table, pivot) for table in board.tables)


def pivot_view(board: Board, pivot: Pivot) -> tuple[ViewTable, ...]:
    """Return the crossings as tables to draw, the best of each column marked."""
    return tuple(
        _pivot_view_table(
            pivot_table, pivot, table_title(pivot_table.table, best_seed=board.best_seed)
        )
        for pivot_table in build_pivot(board, pivot)
    )


def key_text(key: PivotKey) -> str:
    """Return a key for a heading; a dash for a missing one."""
    if isinstance(key, bool):
        return "yes" if key else "no"
    return MISSING if key is None else sanitize(str(key))


def _pivot_table(table: Table, pivot: Pivot) -> PivotTable:
    cells: dict[tuple[PivotKey, PivotKey], Entry] = {}
    for entry in sorted(table.rows, key=lambda entry: -entry.top1_mean):
        cells.setdefault((_pivot_key(entry, pivot.row), _pivot_key(entry, pivot.column)), entry)
    rows: Sequence[PivotKey] = list(dict.fromkeys(row for row, _ in cells))
    if pivot.row == BITS or not any(isinstance(row, str) for row in rows):
        rows = sorted(rows, key=_ascending)
    columns = sorted({column for _, column in cells}, key=_ascending)
    return PivotTable(table, tuple(rows), tuple(columns), cells)


def _pivot_key(entry: Entry, name: str) -> PivotKey:
    if name == BITS:
        return f"W{entry.weight_bits}A{entry.act_bits}"
    if name == "model":
        return _BITS_SUFFIX.sub("", entry.model) or entry.model
    value: PivotKey = getattr(entry, name)
    return value


def _ascending(key: PivotKey) -> tuple[int, float, Sequence[str | int]]:
    """Return what orders keys: numbers, then text with its numbers as such, last what is missing.

    >>> sorted(["W32A32", None, "W4A4", 8], key=_ascending)
    [8, 'W4A4', 'W32A32', None]
    """
    if key is None:
        return 2, 0.0, ()
    if isinstance(key, str):
        parts = _DIGITS.split(key)  # every second one is a number
        return 1, 0.0, [int(part) if n % 2 else part for n, part in enumerate(parts)]
    return 0, float(key), ()


def _pivot_view_table(pivot_table: PivotTable, pivot: Pivot, heading: str) -> ViewTable:
    prefix = {"weight_bits": "W", "act_bits": "A"}.get(pivot.column, "")
    columns = [ViewColumn(pivot.row, pivot.row, "left")]
    for number, key in enumerate(pivot_table.columns):
        name = f"{prefix}{key_text(key)}"
        columns.append(
            ViewColumn(f"column-{number}", name, "left", priority=len(pivot_table.columns) - number)
        )
    podiums = _podiums(pivot_table)
    rows = tuple(
        (
            Cell(key_text(row)),
            *(_pivot_cell(pivot_table, pivot, (row, key), podiums) for key in pivot_table.columns),
        )
        for row in pivot_table.rows
    )
    return ViewTable(f"{heading} · {pivot.value}", tuple(columns), rows, _pivot_footer(pivot_table))


def _podiums(pivot_table: PivotTable) -> dict[tuple[PivotKey, PivotKey], int]:
    """Return 1 for the best cell of each column, 2 for the second, by Top-1."""
    podiums = {}
    for column in pivot_table.columns:
        entries = {
            row: pivot_table.cells[row, column]
            for row in pivot_table.rows
            if (row, column) in pivot_table.cells
        }
        values = sorted({entry.top1_mean for entry in entries.values()}, reverse=True)[:2]
        for row, entry in entries.items():
            if len(entries) > 1 and entry.top1_mean in values:
                podiums[row, column] = 1 + values.index(entry.top1_mean)
    return podiums


def _pivot_cell(
    pivot_table: PivotTable,
    pivot: Pivot,
    key: tuple[PivotKey, PivotKey],
    podiums: dict[tuple[PivotKey, PivotKey], int],
) -> Cell:
    if key not in pivot_table.cells:
        return Cell(MISSING, dim=True)
    entry = pivot_table.cells[key]
    podium = podiums.get(key, 0) if pivot.value == "top1_mean" else 0
    plain_cell = value_cell(entry, pivot.value, podium)
    half_text = half_width_text(entry) if pivot.value == "top1_mean" else ""
    text = f"{plain_cell.text} ±{half_text}" if half_text else plain_cell.text
    return Cell(text, strong=podium == 1, dim=not entry.is_local, podium=podium)


def _pivot_footer(pivot_table: PivotTable) -> str:
    n_hidden = len(pivot_table.table.rows) - len(pivot_table.cells)
    text = "each cell is the best row that falls there"
    return (
        f"{text} · {n_hidden:,} more {'row' if n_hidden == 1 else 'rows'} not shown"
        if n_hidden
        else text
    )
