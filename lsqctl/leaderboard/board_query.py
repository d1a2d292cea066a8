"""What is asked of a board: which runs and published results are ranked, what is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from lsqctl.events import BoardRow
from lsqctl.filters.evaluate import ColumnValue, Undecidable, matches
from lsqctl.filters.expression import Expression
from lsqctl.leaderboard.board import Board, Table
from lsqctl.leaderboard.entries import published_entry
from lsqctl.leaderboard.published_results import PublishedResult
from lsqctl.leaderboard.schema import RUN_SOURCES, Entry, check_column_names


@dataclass(frozen=True, slots=True)
class BoardQuery:
    """What is shown of a board.

    ``where`` filters its rows; ``group_by`` makes a table of each combination of values;
    ``sort`` orders each table by columns, ``-`` before one for the largest first, missing values
    last; ``limit`` keeps so many rows of each table. Raises UsageError for an unknown column.
    """

    where: Expression | None = None
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


def filter_value(entry: Entry, column: str) -> ColumnValue:
    """Return what a filter compares: a moment for ``created_at``, None for what it has not."""
    if column == "created_at" and entry.created_at:
        return datetime.fromisoformat(entry.created_at)
    value: ColumnValue = getattr(entry, column, None)
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
            yield replace(table, rows=tuple(rows), group=(*table.group, *group), hidden=hidden)


def _matching_rows(rows: list[Entry], where: Expression | None) -> list[Entry]:
    if where is None:
        return rows
    return [row for row in rows if matches(where, lambda name, row=row: filter_value(row, name))]  # type: ignore[misc]


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


def filter_runs(rows: Sequence[BoardRow], where: Expression | None) -> list[BoardRow]:
    """Return the runs that are ranked: those that pass, and the failed ones that belong to them.

    A failed run belongs if it passes, or if nobody can tell while its recipe has a row: so that
    a filter on what only results know drops no failed seed in silence.
    """
    if where is None:
        return list(rows)
    chosen = [row for row in rows if row.n_total and matches(where, _run_values(row))]
    recipes_with_results = {row.recipe_sha256 for row in chosen}
    return chosen + [
        row
        for row in rows
        if not row.n_total and _failed_run_matches(row, where, recipes_with_results)
    ]


def _run_values(row: BoardRow) -> Callable[[str], ColumnValue]:
    """Return what a filter asks of a run: each value, where a run can have it."""

    def value(name: str) -> ColumnValue:
        source = RUN_SOURCES[name]
        if source.of_run is None or not (row.n_total or source.at_submit):
            raise Undecidable(name)
        return source.of_run(row)

    return value


def filter_published(
    published: Iterable[PublishedResult], where: Expression | None
) -> list[PublishedResult]:
    """Return the published rows that pass; what a source does not say is missing there."""
    if where is None:
        return list(published)
    return [result for result in published if _published_matches(result, where)]


def _failed_run_matches(row: BoardRow, where: Expression, recipes_with_results: set[str]) -> bool:
    is_match = matches(where, _run_values(row))
    return row.recipe_sha256 in recipes_with_results if is_match is None else is_match


def _published_matches(published: PublishedResult, where: Expression) -> bool:
    entry = published_entry(published)
    return bool(matches(where, lambda name: filter_value(entry, name)))
