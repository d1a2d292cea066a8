"""The board with the columns that were asked for, each in the form that its unit wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lsqctl.leaderboard.board import Board, Entry, Table
from lsqctl.leaderboard.captions import table_footer, row_notes, table_title
from lsqctl.leaderboard.clean import sanitize
from lsqctl.leaderboard.columns import COLUMNS_BY_NAME, Column
from lsqctl.leaderboard.view import (
    MISSING,
    Align,
    Cell,
    ViewColumn,
    ViewTable,
    format_bytes,
    model_text,
    podium_places,
    format_signed,
    format_three_digits,
)


def column_view(board: Board, names: Sequence[str]) -> tuple[ViewTable, ...]:
    """Return the tables of a board with these columns, titled by their names in the contract."""
    columns = tuple(
        _view_column(COLUMNS_BY_NAME[name], len(names) - n) for n, name in enumerate(names)
    )
    return tuple(
        ViewTable(
            table_title(table, best_seed=board.best_seed),
            columns,
            _value_rows(table, names),
            table_footer(table),
            row_notes(table, board),
        )
        for table in board.tables
    )


def _view_column(column: Column, priority: int) -> ViewColumn:
    never_hidden = column.name in ("rank", "model")
    align: Align = "right" if column.kind == "number" and column.name != "rank" else "left"
    return ViewColumn(column.name, column.name, align, priority=0 if never_hidden else priority)


def _value_rows(table: Table, names: Sequence[str]) -> tuple[tuple[Cell, ...], ...]:
    podium_of_rows = podium_places(table.rows)
    return tuple(
        tuple(value_cell(row, name, podium if name == "top1_mean" else 0) for name in names)
        for row, podium in zip(table.rows, podium_of_rows, strict=True)
    )


def value_cell(entry: Entry, name: str, podium: int = 0) -> Cell:
    """Return one value of an entry, as a person reads it."""
    value, column = getattr(entry, name), COLUMNS_BY_NAME[name]
    if value is None:
        return Cell("" if name == "rank" else MISSING, dim=True)
    if name == "model":
        return Cell(model_text(entry), dim=not entry.is_local)
    strong = name == "rank" or podium == 1
    return Cell(_value_text(column, value), strong=strong, podium=podium)


def _value_text(column: Column, value: str | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return sanitize(value)
    if column.name == "delta_fp32":
        return format_signed(value)
    return _UNIT_FORMATS.get(column.unit, _format_plain)(value)


def _format_plain(value: float) -> str:
    return f"{value:,}"


def _format_giga(value: float) -> str:
    return format_three_digits(value) if value >= 0.01 else f"{value:.2g}"


_UNIT_FORMATS: Mapping[str, Callable[[float], str]] = {
    "%": "{:.2f}".format,
    "h": "{:.2f}".format,
    "bytes": format_bytes,
    "10^9": _format_giga,
}
