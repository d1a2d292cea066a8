"""Fit a table into a width: columns are hidden by their priority, no cell wraps."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len

from lsqctl.cli.console import stdout_console
from lsqctl.leaderboard.table_view import Cell, ViewTable
from lsqctl.settings import color_forced

if TYPE_CHECKING:
    from rich.text import Text

GAP = 2
NOTE_INDENT = "    "  # of a line under a row
MIN_NAME_WIDTH = 24  # cells that a model's name keeps before any column is hidden for it
CELL_STYLES = {"good": "green", "bad": "red", "": ""}


def print_tables(tables: Sequence[ViewTable]) -> None:
    """Print one table a dataset; in a pipe as wide as it needs to be, without colour."""
    if not sys.stdout.isatty() and not color_forced():
        if tables:
            print("\n\n".join("\n".join(_plain_lines(table)) for table in tables))
        return
    console = stdout_console()
    width = console.width if sys.stdout.isatty() else None
    for number, table in enumerate(tables):
        console.print(*[""] * bool(number), render_table(table, width), sep="\n", soft_wrap=True)


def render_table(table: ViewTable, width: int | None) -> Text:
    """Return a table as text of at most ``width`` cells a line; title and footer fold at words."""
    from rich.text import Text

    parts = [Text(table.title, "bold"), render_rows(table, width), Text(table.footer, "dim")]
    if width is not None:
        parts[0], parts[2] = (_wrap(parts[n], width) for n in (0, 2))
    return Text("\n").join(parts)


def _wrap(text: Text, width: int) -> Text:
    from rich.console import Console
    from rich.text import Text

    lines = text.wrap(Console(width=width), width)
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def visible_columns(table: ViewTable, width: int | None) -> list[int]:
    """Return the columns that fit into ``width``: the lowest ``priority`` goes first, 0 never.

    A long name is cut before a column goes, down to ``MIN_NAME_WIDTH`` cells.
    """
    min_widths = [
        min(MIN_NAME_WIDTH, size) if column.key == "model" else size
        for column, size in zip(table.columns, _full_widths(table), strict=True)
    ]
    visible = list(range(len(table.columns)))
    while width is not None and _total_width(min_widths, visible) > width:
        hideable = [index for index in visible if table.columns[index].priority]
        if not hideable:
            break
        visible.remove(min(hideable, key=lambda index: table.columns[index].priority))
    return visible


def _full_widths(table: ViewTable) -> list[int]:
    """Return what each column needs to be shown whole."""
    columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
    return [
        max(cell_len(column.title), *(cell_len(cell.text) for cell in cells), 0)
        for column, cells in zip(table.columns, columns, strict=True)
    ]


def _total_width(widths: Sequence[int], visible: Sequence[int]) -> int:
    return sum(widths[index] for index in visible) + GAP * (len(visible) - 1)


def _plain_lines(table: ViewTable) -> Iterator[str]:
    """Yield the lines of a table, title and footer included."""
    widths = _full_widths(table)
    yield table.title
    for row, note in _rows_with_notes(table):
        cells = zip(row, table.columns, widths, strict=True)
        cell_texts = (_pad(cell.text, column.align, width) for cell, column, width in cells)
        yield (" " * GAP).join(cell_texts).rstrip()
        if note:
            yield NOTE_INDENT + note
    yield table.footer


def render_rows(table: ViewTable, width: int | None) -> Text:
    """Return the columns that fit, each at its width; the model's name is cut if it must be.

    One text and not a Rich table, which takes half a second for a thousand rows.
    """
    from rich.text import Text

    visible, widths = visible_columns(table, width), _full_widths(table)
    excess = 0 if width is None else max(0, _total_width(widths, visible) - width)
    for index in visible:
        if table.columns[index].key == "model":
            widths[index] = max(1, widths[index] - excess)
    text = Text()
    for number, (row, note) in enumerate(_rows_with_notes(table)):
        text.append("\n" if number else "")
        for position, index in enumerate(visible):
            cell_text = _pad(row[index].text, table.columns[index].align, widths[index])
            cell_text = cell_text.rstrip() if index == visible[-1] else cell_text
            text.append(" " * GAP if position else "")
            text.append(cell_text, _cell_style(row[index]))
        for line in _note_lines(note, width):
            text.append(f"\n{NOTE_INDENT}{line}", "dim")
    return text


def _note_lines(note: str, width: int | None) -> list[str]:
    """Return what goes under a row, folded at words."""
    from rich.text import Text

    if width is None or not note:
        return [note] if note else []
    wrapped = _wrap(Text(note), max(1, width - len(NOTE_INDENT)))
    return wrapped.plain.split("\n")


def _rows_with_notes(table: ViewTable) -> Iterator[tuple[Sequence[Cell], str]]:
    """Yield the heading, then each row, with the line under it."""
    yield tuple(Cell(column.title, dim=True) for column in table.columns), ""
    yield from table.rows_with_notes()


def _pad(text: str, align: str, width: int) -> str:
    missing = width - cell_len(text)
    if missing < 0:
        return _elide_middle(text, width)
    return " " * missing + text if align == "right" else text + " " * missing


def _elide_middle(text: str, width: int) -> str:
    """Return a name that lost its middle: its ending, as in ``-w4a4``, tells most."""
    from rich.cells import set_cell_size

    tail = text[-(max(0, width - 1) // 3) :] if width > 3 else ""
    return set_cell_size(text, width - 1 - cell_len(tail)) + "…" + tail


def _cell_style(cell: Cell) -> str:
    styles = [CELL_STYLES[cell.highlight], "bold" if cell.strong else "", "dim" if cell.dim else ""]
    if cell.link:
        styles.append(f"link {cell.link}")
    return " ".join(filter(None, styles))
