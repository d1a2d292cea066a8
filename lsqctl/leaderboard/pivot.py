"""Turn a board into a crossing of two columns: the best row's value wherever both meet."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lsqctl.errors import UsageError
from lsqctl.leaderboard.board import Board, Entry, Table
from lsqctl.leaderboard.captions import title
from lsqctl.leaderboard.chosen import cell
from lsqctl.leaderboard.clean import clean
from lsqctl.leaderboard.columns import check_names
from lsqctl.leaderboard.view import NONE, Cell, ViewColumn, ViewTable, half_width

Key = str | int | float | bool | None
BITS = "bits"  # weight and activation bits as one: W3A4
_SUFFIX = re.compile(r"[-+_ ]?w[0-9]+a[0-9]+\b", re.IGNORECASE)


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
        check_names((self.row, self.column), "--pivot", (BITS,))
        check_names((self.value,), "--pivot")
        if self.row == self.column:
            raise UsageError(f"--pivot: `{self.row}` cannot cross itself; name two columns")


@dataclass(frozen=True, slots=True)
class Crossing:
    """One dataset's pivot. ``cells`` holds the best row of each (row, column) that has one."""

    table: Table
    rows: tuple[Key, ...]
    columns: tuple[Key, ...]
    cells: dict[tuple[Key, Key], Entry]


def cross(board: Board, pivot: Pivot) -> tuple[Crossing, ...]:
    """Return a crossing a table: rows by their best entry, columns in ascending order."""
    return tuple(_crossing(table, pivot) for table in board.tables)


def pivot_view(board: Board, pivot: Pivot) -> tuple[ViewTable, ...]:
    """Return the crossings as tables to draw, the best of each column marked."""
    return tuple(
        _view(one, pivot, title(one.table, best_seed=board.best_seed))
        for one in cross(board, pivot)
    )


def key_text(key: Key) -> str:
    """Return a key for a heading; a dash for a missing one."""
    if isinstance(key, bool):
        return "yes" if key else "no"
    return NONE if key is None else clean(str(key))


def _crossing(table: Table, pivot: Pivot) -> Crossing:
    cells: dict[tuple[Key, Key], Entry] = {}
    for entry in sorted(table.rows, key=lambda one: -one.top1_mean):
        cells.setdefault((_key(entry, pivot.row), _key(entry, pivot.column)), entry)
    rows = tuple(dict.fromkeys(row for row, _ in cells))
    columns = sorted({column for _, column in cells}, key=lambda key: (_kind(key), key))
    return Crossing(table, rows, tuple(columns), cells)


def _key(entry: Entry, name: str) -> Key:
    if name == BITS:
        return f"W{entry.w_bits}A{entry.a_bits}"
    if name == "model":
        return _SUFFIX.sub("", entry.model) or entry.model
    found: Key = getattr(entry, name)
    return found


def _kind(key: Key) -> int:
    return 2 if key is None else 1 if isinstance(key, str) else 0


def _view(one: Crossing, pivot: Pivot, heading: str) -> ViewTable:
    bits = {"w_bits": "W", "a_bits": "A"}.get(pivot.column, "")
    columns = [ViewColumn(pivot.row, pivot.row, "left")]
    for number, key in enumerate(one.columns):
        name = f"{bits}{key_text(key)}"
        columns.append(ViewColumn(f"column-{number}", name, "left", drop=len(one.columns) - number))
    marks = _marks(one)
    rows = tuple(
        (Cell(key_text(row)), *(_cell(one, pivot, (row, key), marks) for key in one.columns))
        for row in one.rows
    )
    return ViewTable(f"{heading} · {pivot.value}", tuple(columns), rows, _footer(one))


def _marks(one: Crossing) -> dict[tuple[Key, Key], int]:
    """Return 1 for the best cell of each column, 2 for the second, by Top-1."""
    found = {}
    for column in one.columns:
        here = {row: one.cells[row, column] for row in one.rows if (row, column) in one.cells}
        values = sorted({entry.top1_mean for entry in here.values()}, reverse=True)[:2]
        for row, entry in here.items():
            if len(here) > 1 and entry.top1_mean in values:
                found[row, column] = 1 + values.index(entry.top1_mean)
    return found


def _cell(
    one: Crossing, pivot: Pivot, at: tuple[Key, Key], marks: dict[tuple[Key, Key], int]
) -> Cell:
    if at not in one.cells:
        return Cell(NONE, dim=True)
    entry = one.cells[at]
    place = marks.get(at, 0) if pivot.value == "top1_mean" else 0
    found = cell(entry, pivot.value, place)
    half = half_width(entry) if pivot.value == "top1_mean" else ""
    text = f"{found.text} ±{half}" if half else found.text
    return Cell(text, strong=place == 1, dim=not entry.own, place=place)


def _footer(one: Crossing) -> str:
    left = len(one.table.rows) - len(one.cells)
    told = "each cell is the best row that falls there"
    return f"{told} · {left:,} more {'row' if left == 1 else 'rows'} not shown" if left else told
