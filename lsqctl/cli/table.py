"""The table engine of the terminal: columns hide by priority, one is cut, no cell wraps."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from lsqctl.settings import color_forced
from lsqctl.text import sanitize

if TYPE_CHECKING:
    from rich.text import Text

    from lsqctl.leaderboard.table_view import Cell as ViewCell
    from lsqctl.leaderboard.table_view import ViewTable

GAP = 2
NOTE_INDENT = "    "  # of a line under a row
MIN_NAME_WIDTH = 24  # cells that a name keeps before any column is hidden for it
MIN_TEXT_WIDTH = 16  # cells of a sentence, as a reason or a note
_HIGHLIGHT_STYLES = {"good": "green", "bad": "red", "": ""}


@dataclass(frozen=True, slots=True)
class Column:
    """How one column gives way where a table is too wide.

    One with a ``cut`` loses its end or its middle, the last column first, down to ``uncut_width``
    (None: not at all). Where that is not enough, the column with the lowest ``priority`` is hidden
    first, 0 never; then the last visible one with a ``cut`` loses more. An ``optional`` column is
    left out where no row has a value.
    """

    title: str
    align: Literal["left", "right"] = "left"
    priority: int = 0
    cut: Literal["", "end", "middle"] = ""
    uncut_width: int | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell, safe to print as it is; ``style`` is Rich's."""

    text: str
    style: str = ""


Row = Sequence[Cell]
Line = list[Cell]  # pieces, side by side


def cut_columns(
    columns: Iterable[Column], names: Sequence[str], texts: Sequence[str]
) -> list[Column]:
    """Return columns of which those called so lose their middle (names) or their end (texts)."""
    cuts: dict[str, tuple[Literal["middle", "end"], int]] = {
        **dict.fromkeys(names, ("middle", MIN_NAME_WIDTH)),
        **dict.fromkeys(texts, ("end", MIN_TEXT_WIDTH)),
    }
    return [
        replace(column, cut=cuts[column.title][0], uncut_width=cuts[column.title][1])
        if column.title in cuts
        else column
        for column in columns
    ]


def styled_row(texts: Iterable[str], styles: Mapping[str, str]) -> list[Cell]:
    """Return the cells of a row, untrusted text made safe; a style goes with a whole text."""
    return [Cell(sanitize(text), styles.get(text, "")) for text in texts]


def table_lines(
    columns: Sequence[Column], rows: Sequence[Row], width: int | None = None
) -> Iterator[Line]:
    """Yield the heading, then each row, as pieces of at most ``width`` cells, where that can be."""
    layout = fit_columns(columns, rows, width)
    heading = [Cell(column.title, "dim") for column in columns]
    for row in (heading, *rows):
        line: Line = []
        for position, (index, size) in enumerate(layout):
            is_last = position == len(layout) - 1
            text = _pad(row[index].text, columns[index], size)
            line.append(Cell(" " * GAP if position else ""))
            line.append(Cell(text.rstrip() if is_last else text, row[index].style))
        yield line


def to_text(lines: Iterable[Line], max_width: int | None = None) -> Text:
    """Return lines as Rich draws them; what is still too wide ends in an ellipsis.

    One text and not a Rich table, which takes half a second for a thousand rows.
    """
    from rich.text import Text

    texts = [Text.assemble(*((piece.text, piece.style) for piece in line)) for line in lines]
    for text in texts:
        if max_width is not None:
            text.truncate(max_width, overflow="ellipsis")
    return Text("\n").join(texts)


def to_plain(line: Line) -> str:
    """Return a line for a pipe."""
    return "".join(piece.text for piece in line).rstrip()


def fit_columns(
    columns: Sequence[Column], rows: Sequence[Row], width: int | None
) -> list[tuple[int, int]]:
    """Return the columns that are shown in ``width``, each as its index and its width."""
    widths = _full_widths(columns, rows)
    visible = [index for index, size in enumerate(widths) if size]
    min_widths = [
        size if column.uncut_width is None else min(column.uncut_width, size)
        for column, size in zip(columns, widths, strict=True)
    ]
    while width is not None and _total_width(min_widths, visible) > width:
        hideable = [index for index in visible if columns[index].priority]
        if not hideable:
            break
        visible.remove(min(hideable, key=lambda index: columns[index].priority))
    excess = 0 if width is None else max(0, _total_width(widths, visible) - width)
    cut_last_first = [index for index in reversed(visible) if columns[index].cut]
    floors = [(index, min_widths[index]) for index in cut_last_first]
    for index, floor in [*floors, *((index, 1) for index in cut_last_first[:1])]:
        cut = min(excess, max(0, widths[index] - floor))
        widths[index] -= cut
        excess -= cut
    return [(index, widths[index]) for index in visible]


def _full_widths(columns: Sequence[Column], rows: Sequence[Row]) -> list[int]:
    """Return what each column needs to be shown whole; 0 for one that is left out."""
    from rich.cells import cell_len

    widths = [
        max((cell_len(row[index].text) for row in rows), default=0) for index in range(len(columns))
    ]
    return [
        0 if column.optional and not size else max(size, cell_len(column.title))
        for column, size in zip(columns, widths, strict=True)
    ]


def _total_width(widths: Sequence[int], visible: Sequence[int]) -> int:
    return sum(widths[index] for index in visible) + GAP * (len(visible) - 1)


def _pad(text: str, column: Column, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    missing = width - cell_len(text)
    if missing >= 0:
        return " " * missing + text if column.align == "right" else text + " " * missing
    # a name that lost its middle: its ending, as in `-w4a4`, tells most
    tail = text[-(max(0, width - 1) // 3) :] if column.cut == "middle" and width > 3 else ""
    return set_cell_size(text, width - 1 - cell_len(tail)) + "…" + tail


def print_tables(tables: Sequence[ViewTable]) -> None:
    """Print the board's tables; in a pipe as wide as they need to be, without colour."""
    from lsqctl.cli.console import stdout_console

    if not sys.stdout.isatty() and not color_forced():
        if tables:
            print("\n\n".join("\n".join(_plain_board_lines(table)) for table in tables))
        return
    console = stdout_console()
    width = console.width if sys.stdout.isatty() else None
    for number, table in enumerate(tables):
        console.print(*[""] * bool(number), render_table(table, width), sep="\n", soft_wrap=True)


def render_table(table: ViewTable, width: int | None) -> Text:
    """Return a table as text of at most ``width`` cells a line; title and footer fold at words."""
    from rich.text import Text

    title, footer = Text(table.title, "bold"), Text(table.footer, "dim")
    if width is not None:
        title, footer = _wrap(title, width), _wrap(footer, width)
    return Text("\n").join([title, to_text(_board_lines(table, width)), footer])


def visible_columns(table: ViewTable, width: int | None) -> list[int]:
    """Return the board's columns that fit into ``width``."""
    return [index for index, _ in fit_columns(_board_columns(table), _board_rows(table), width)]


def _board_columns(table: ViewTable) -> list[Column]:
    return [
        Column(column.title, column.align, column.priority, "middle", MIN_NAME_WIDTH)
        if column.key == "model"
        else Column(column.title, column.align, column.priority)
        for column in table.columns
    ]


def _board_rows(table: ViewTable) -> list[Row]:
    return [[Cell(cell.text, _view_style(cell)) for cell in row] for row in table.rows]


def _board_lines(table: ViewTable, width: int | None) -> Iterator[Line]:
    """Yield the heading and each row, with the note under it."""
    notes = ["", *(note for _, note in table.rows_with_notes())]
    lines = table_lines(_board_columns(table), _board_rows(table), width)
    for line, note in zip(lines, notes, strict=True):
        yield line
        for note_line in _note_lines(note, width):
            yield [Cell(NOTE_INDENT + note_line, "dim")]


def _plain_board_lines(table: ViewTable) -> Iterator[str]:
    yield table.title
    yield from map(to_plain, _board_lines(table, None))
    yield table.footer


def _note_lines(note: str, width: int | None) -> list[str]:
    """Return what goes under a row, folded at words."""
    from rich.text import Text

    if width is None or not note:
        return [note] if note else []
    wrapped = _wrap(Text(note), max(1, width - len(NOTE_INDENT)))
    return wrapped.plain.split("\n")


def _wrap(text: Text, width: int) -> Text:
    from rich.console import Console
    from rich.text import Text

    lines = text.wrap(Console(width=width), width)
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def _view_style(cell: ViewCell) -> str:
    highlight = _HIGHLIGHT_STYLES[cell.highlight]
    styles = [highlight, "bold" if cell.strong else "", "dim" if cell.dim else ""]
    if cell.link:
        styles.append(f"link {cell.link}")
    return " ".join(filter(None, styles))
