"""The board as tables of cells: words, emphasis, captions, and which column gives way first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lsqctl.leaderboard.board import Board, Counts, Table
from lsqctl.leaderboard.schema import COLUMNS_BY_NAME, Column, Entry, Unit
from lsqctl.text import (
    MINUS,
    format_bops,
    format_bytes,
    format_signed,
    format_three_digits,
    pluralize,
    sanitize,
)


def row_notes(table: Table, board: Board) -> tuple[str, ...]:
    """Return the line that goes under each row; nothing where no row has one."""
    deviations = (board.deviations_of(entry) for entry in table.rows)
    lines = tuple(sanitize(deviation.text) if deviation else "" for deviation in deviations)
    return lines if any(lines) else ()


def table_title(table: Table, *, best_seed: bool) -> str:
    """Return what a table shows: dataset, section, images, origins."""
    section = (f"{name} {sanitize(value)}" for name, value in table.group)
    parts = [
        sanitize(table.dataset),
        *section,
        f"Top-1 on {_images_text(table.rows)}",
        _origins_text(table.counts),
    ]
    if best_seed:
        parts.append("best seed of each recipe")
    return " · ".join(parts)


def _images_text(entries: Sequence[Entry]) -> str:
    splits = sorted({entry.split for entry in entries if entry.split})
    images = f"{sanitize(splits[0])} images" if len(splits) == 1 else "images"
    totals = sorted({entry.eval_n for entry in entries if entry.eval_n})
    if not totals:
        return images
    span = f"{totals[0]:,}" if len(totals) == 1 else f"{totals[0]:,} to {totals[-1]:,}"
    return f"{span} {images}"


def _origins_text(counts: Counts) -> str:
    n_local = counts.groups or counts.empty_groups
    if n_local and counts.published:
        return "local runs and published rows"
    return "local runs" if n_local else "published rows"


def table_footer(table: Table) -> str:
    """Return what a table's rows were made from, and what is not shown of them."""
    counts = table.counts
    parts = []
    if counts.runs:
        unsuccessful = [(counts.failed, "failed"), (counts.cancelled, "cancelled")]
        unsuccessful_text = ", ".join(
            f"{number} {state}" for number, state in unsuccessful if number
        )
        runs = f"{pluralize(counts.groups, 'group')}, {pluralize(counts.runs, 'run')}"
        parts.append(f"{runs} ({unsuccessful_text})" if unsuccessful_text else runs)
    if counts.empty_groups:
        parts.append(f"{pluralize(counts.empty_groups, 'group')} without a result")
    if counts.published:
        parts.append(pluralize(counts.published, "published row"))
    if table.hidden:
        parts.append(f"{pluralize(table.hidden, 'row')} not shown")
    return " · ".join([*parts, "a rank counts the rows that lie wholly above"])


LOCAL_MARKER, RECORDED_MARKER, PUBLISHED_MARKER, FULL_PRECISION_MARKER = "●", "◐", "○", "◌"
MISSING = "–"

Align = Literal["left", "right"]
Highlight = Literal["", "good", "bad"]


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """A column's heading. The column with the lowest ``priority`` goes first; 0 never goes."""

    key: str
    title: str
    align: Align
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell, safe to print as it is. ``link`` is a URL that the text stands for.

    ``podium`` is 1 for the best value of its column, 2 for the second best, else 0.
    """

    text: str
    strong: bool = False
    dim: bool = False
    highlight: Highlight = ""
    link: str = ""
    podium: int = 0


@dataclass(frozen=True, slots=True)
class ViewTable:
    """One dataset's table; each row has one cell a column.

    ``notes`` has a line to go under each row, empty where there is none; or is empty itself.
    """

    title: str
    columns: tuple[ViewColumn, ...]
    rows: tuple[tuple[Cell, ...], ...]
    footer: str
    notes: tuple[str, ...] = ()

    def rows_with_notes(self) -> Iterator[tuple[tuple[Cell, ...], str]]:
        """Yield each row with the line under it."""
        return zip(self.rows, self.notes or ("",) * len(self.rows), strict=True)


DEFAULT_COLUMNS = (
    *("rank", "model", "weight_bits", "act_bits", "top1_mean", "delta_fp32"),
    *("size_bytes", "gbops", "n_seeds", "origin"),
)
"""What a table shows that nobody chose columns for."""


@dataclass(frozen=True, slots=True)
class RowContext:
    """What a cell needs of its table: does the row share its rank, its place on the podium (1, 2
    or 0), and its Top-1 with interval, as wide as the others'."""

    is_tied: bool
    podium: int
    top1_text: str


def _row_contexts(table: Table) -> list[RowContext]:
    """Return what the cells of each row need of the others; ties are with rows not shown, too."""
    entries = table.rows
    return [
        RowContext(entry.rank in table.tied_ranks, podium, text)
        for entry, podium, text in zip(
            entries, podium_ranks(entries), _top1_texts(entries), strict=True
        )
    ]


def board_view(board: Board) -> tuple[ViewTable, ...]:
    """Return the tables of a board as cells, in the board's order."""
    columns = tuple(summary_column(COLUMNS_BY_NAME[name]) for name in DEFAULT_COLUMNS)
    return tuple(_view_table(table, board, columns, _summary_cell) for table in board.tables)


def column_view(board: Board, names: Sequence[str]) -> tuple[ViewTable, ...]:
    """Return the tables of a board with these columns, titled by their names in the contract."""
    columns = tuple(
        _view_column(COLUMNS_BY_NAME[name], len(names) - n) for n, name in enumerate(names)
    )
    return tuple(_view_table(table, board, columns, _column_cell) for table in board.tables)


def _view_table(
    table: Table,
    board: Board,
    columns: tuple[ViewColumn, ...],
    cell: Callable[[Entry, str, RowContext], Cell],
) -> ViewTable:
    rows = tuple(
        tuple(cell(entry, column.key, context) for column in columns)
        for entry, context in zip(table.rows, _row_contexts(table), strict=True)
    )
    heading = table_title(table, best_seed=board.best_seed)
    return ViewTable(heading, columns, rows, table_footer(table), row_notes(table, board))


def summary_column(column: Column) -> ViewColumn:
    """Return a column under its heading, which gives way as the schema says."""
    padded = column.name == "top1_mean"  # its texts are as wide as each other
    align = "left" if padded else _align(column)
    return ViewColumn(column.name, column.spec.heading, align, column.spec.priority)


def _view_column(column: Column, priority: int) -> ViewColumn:
    never_hidden = column.name in ("rank", "model")
    return ViewColumn(column.name, column.name, _align(column), 0 if never_hidden else priority)


def _align(column: Column) -> Align:
    return "right" if column.kind == "number" and column.name != "rank" else "left"


def _summary_cell(entry: Entry, name: str, context: RowContext) -> Cell:
    """Return a value as a table shows it that nobody chose columns for: with all that it tells."""
    if name == "rank" and entry.rank is not None:
        return Cell(f"{entry.rank}{'=' if context.is_tied else ''}", strong=True)
    if name == "top1_mean":
        return Cell(context.top1_text, strong=context.podium == 1, podium=context.podium)
    if name == "gbops" and entry.gbops is not None:
        return Cell(format_bops(entry.gbops * 1e9))
    return _source_cell(entry) if name == "origin" else value_cell(entry, name)


def _column_cell(entry: Entry, name: str, context: RowContext) -> Cell:
    return value_cell(entry, name, context.podium if name == "top1_mean" else 0)


def value_cell(entry: Entry, name: str, podium: int = 0) -> Cell:
    """Return one value of an entry, as a person reads it."""
    value, column = getattr(entry, name), COLUMNS_BY_NAME[name]
    if value is None:
        return Cell("" if name == "rank" else MISSING, dim=True)
    if name == "model":
        return Cell(model_text(entry), dim=not entry.is_local)
    if column.spec.signed:
        return _signed_cell(value, entry)
    strong = name == "rank" or podium == 1
    return Cell(_value_text(column, value), strong=strong, podium=podium)


def _value_text(column: Column, value: str | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return sanitize(value)
    return _UNIT_FORMATS.get(column.spec.unit, _format_plain)(value)


def _signed_cell(value: float, entry: Entry) -> Cell:
    """Return a difference of Top-1; a colour only where the row's interval tells it from none."""
    text = format_signed(value)
    low, high = entry.interval_low, entry.interval_high
    if abs(value) <= max(entry.top1_mean - low, high - entry.top1_mean):
        return Cell(text)
    return Cell(text, highlight="bad" if text[0] == MINUS else "good" if text[0] == "+" else "")


def podium_ranks(entries: Sequence[Entry]) -> list[int]:
    """Return 1 for each entry of the best rank shown, 2 for each of the next, else 0."""
    best_ranks = sorted({entry.rank for entry in entries if entry.rank is not None})[:2]
    return [
        1 + best_ranks.index(entry.rank) if entry.rank in best_ranks else 0 for entry in entries
    ]


def _top1_texts(entries: Sequence[Entry]) -> list[str]:
    means = [f"{entry.top1_mean:.2f}" for entry in entries]
    half_widths = [half_width_text(entry) for entry in entries]
    widest_mean, widest_half = (
        max(map(len, means), default=0),
        max(map(len, half_widths), default=0),
    )
    return [
        f"{mean:>{widest_mean}}{f' ±{half_text:>{widest_half}}' if half_text else ''}"
        for mean, half_text in zip(means, half_widths, strict=True)
    ]


def half_width_text(entry: Entry) -> str:
    """Return half the width of the interval, two decimals; empty where none is known."""
    if entry.top1_ci95_lo is None or entry.top1_ci95_hi is None:
        return ""
    return f"{(entry.top1_ci95_hi - entry.top1_ci95_lo) / 2:.2f}"


def model_text(entry: Entry) -> str:
    """Return the model's name behind the sign of its origin, which colour alone never tells."""
    origin = LOCAL_MARKER if entry.is_local else PUBLISHED_MARKER
    if entry.is_full_precision:
        origin = FULL_PRECISION_MARKER
    return f"{RECORDED_MARKER if entry.is_recorded else origin} {sanitize(entry.model)}"


def _source_cell(entry: Entry) -> Cell:
    if not entry.is_local:
        url = entry.source_url or ""
        is_web = url.startswith(("https://", "http://")) and sanitize(url) == url
        return Cell(
            sanitize(entry.source_kind or "published"), dim=True, link=url if is_web else ""
        )
    parts = ["recorded, not run by lsqctl"] if entry.is_recorded else ["local"]
    if entry.verified:
        parts.append("verified")
    if entry.verified is False:
        parts.append("verification failed")
    if entry.n_failed:
        parts.append(f"{entry.n_failed} failed")
    if entry.selected_on_test:
        parts.append("selected on test")
    if entry.suspect:
        parts.append("suspect")
    if entry.partial:
        parts.append("on a part of the images")
    if entry.chain:
        parts.append(f"goes on from {sanitize(entry.chain)}")
    is_bad = bool(entry.n_failed or entry.suspect) or entry.verified is False
    return Cell(", ".join(parts), highlight="bad" if is_bad else "")


def _format_plain(value: float) -> str:
    return f"{value:,}"


def _format_giga(value: float) -> str:
    return format_three_digits(value) if value >= 0.01 else f"{value:.2g}"


_UNIT_FORMATS: Mapping[Unit, Callable[[float], str]] = {
    "%": "{:.2f}".format,
    "h": "{:.2f}".format,
    "bytes": format_bytes,
    "10^9": _format_giga,
}
