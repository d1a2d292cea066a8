"""The board with the columns that were asked for, each in the form that its unit wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lsqctl.leaderboard.board import Board, Entry, Table
from lsqctl.leaderboard.captions import footer, notes, title
from lsqctl.leaderboard.clean import clean
from lsqctl.leaderboard.columns import BY_NAME, Column
from lsqctl.leaderboard.view import (
    NONE,
    Align,
    Cell,
    ViewColumn,
    ViewTable,
    bytes_text,
    marked,
    places,
    signed,
    three_digits,
)


def chosen_view(board: Board, names: Sequence[str]) -> tuple[ViewTable, ...]:
    """Return the tables of a board with these columns, titled by their names in the contract."""
    columns = tuple(_column(BY_NAME[name], len(names) - n) for n, name in enumerate(names))
    return tuple(
        ViewTable(
            title(table, best_seed=board.best_seed),
            columns,
            _rows(table, names),
            footer(table),
            notes(table, board),
        )
        for table in board.tables
    )


def _column(column: Column, drop: int) -> ViewColumn:
    kept = column.name in ("rank", "model")
    align: Align = "right" if column.kind == "number" and column.name != "rank" else "left"
    return ViewColumn(column.name, column.name, align, drop=0 if kept else drop)


def _rows(table: Table, names: Sequence[str]) -> tuple[tuple[Cell, ...], ...]:
    found = places(table.rows)
    return tuple(
        tuple(cell(row, name, place if name == "top1_mean" else 0) for name in names)
        for row, place in zip(table.rows, found, strict=True)
    )


def cell(entry: Entry, name: str, place: int = 0) -> Cell:
    """Return one value of an entry, as a person reads it."""
    value, column = getattr(entry, name), BY_NAME[name]
    if value is None:
        return Cell("" if name == "rank" else NONE, dim=True)
    if name == "model":
        return Cell(marked(entry), dim=not entry.own)
    strong = name == "rank" or place == 1
    return Cell(_text(column, value), strong=strong, place=place)


def _text(column: Column, value: str | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return clean(value)
    if column.name == "delta_fp32":
        return signed(value)
    return _UNITS.get(column.unit, _plain)(value)


def _plain(value: float) -> str:
    return f"{value:,}"


def _giga(value: float) -> str:
    return three_digits(value) if value >= 0.01 else f"{value:.2g}"


_UNITS: Mapping[str, Callable[[float], str]] = {
    "%": "{:.2f}".format,
    "h": "{:.2f}".format,
    "bytes": bytes_text,
    "10^9": _giga,
}
