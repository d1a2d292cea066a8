"""Cut a ranked board as it was asked for: filter, sections, order, so many rows; ranks stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from lsqctl.filters.judging import Known, holds
from lsqctl.filters.names import OF_RESULTS
from lsqctl.filters.tree import Kind, Node
from lsqctl.leaderboard.board import Board, Entry, Table
from lsqctl.leaderboard.columns import COLUMNS, check_column_names

# What `leaderboard --where` may name: what a run has, and what a ranked row has.
WHERE_COLUMNS: Mapping[str, Kind] = {
    **{column.name: column.kind for column in COLUMNS},
    **OF_RESULTS,
}


@dataclass(frozen=True, slots=True)
class BoardQuery:
    """What is shown of a board.

    ``where`` filters its rows; ``group_by`` makes a table of each combination of values;
    ``sort`` orders each table by columns, ``-`` before one for the largest first, missing values
    last; ``limit`` keeps so many rows of each table. Raises UsageError for an unknown column.
    """

    where: Node | None = None
    group_by: tuple[str, ...] = ()
    sort: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        check_column_names(self.group_by, "--group-by")
        check_column_names((name.removeprefix("-") for name in self.sort), "--sort")


def apply_query(board: Board, query: BoardQuery) -> Board:
    """Return the board cut to its shape; a table without a row left is left out."""
    tables = [section for table in board.tables for section in _split_table(table, query)]
    return replace(board, tables=tuple(tables))


def filter_value(entry: Entry, column: str) -> Known:
    """Return what a filter compares: a moment for ``created_at``, None for what it has not."""
    if column == "created_at" and entry.created_at:
        return datetime.fromisoformat(entry.created_at)
    value: Known = getattr(entry, column, None)
    return None if value == "" else value


def _split_table(table: Table, query: BoardQuery) -> Iterable[Table]:
    if not table.rows:  # its footer still tells what came to nothing
        yield table
    groups: dict[tuple[tuple[str, str], ...], list[Entry]] = {}
    for entry in table.rows:
        key = tuple((name, _group_text(getattr(entry, name))) for name in query.group_by)
        groups.setdefault(key, []).append(entry)
    for group, ranked in groups.items():
        rows = _sort_rows(_matching_rows(ranked, query.where), query.sort)[: query.limit]
        hidden = table.hidden + len(ranked) - len(rows)
        if rows:
            yield replace(table, rows=tuple(rows), group=group, hidden=hidden)


def _matching_rows(rows: list[Entry], where: Node | None) -> list[Entry]:
    if where is None:
        return rows
    return [row for row in rows if holds(where, lambda name, row=row: filter_value(row, name))]  # type: ignore[misc]


def _sort_rows(rows: list[Entry], sort: tuple[str, ...]) -> list[Entry]:
    for name in reversed(sort):  # stable: the last column first
        column = name.removeprefix("-")
        with_value = [entry for entry in rows if getattr(entry, column) is not None]
        without_value = [entry for entry in rows if getattr(entry, column) is None]
        with_value.sort(key=lambda entry: getattr(entry, column), reverse=name != column)
        rows = with_value + without_value
    return rows


def _group_text(value: object) -> str:
    if value is None:
        return "unknown"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
