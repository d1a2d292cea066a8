"""Draw the leaderboard: columns give way in a fixed order, nothing wraps."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len

from lsqctl.cli.render import stdout
from lsqctl.leaderboard.view import Cell, ViewTable
from lsqctl.settings import colour_forced

if TYPE_CHECKING:
    from rich.text import Text

GAP = 2
INDENT = "    "  # of a line under a row
NAME = 24  # cells that a model's name keeps before any column gives way for it
TONES = {"good": "green", "bad": "red", "": ""}


def draw(tables: Sequence[ViewTable]) -> None:
    """Print one table a dataset; in a pipe as wide as it needs to be, without colour."""
    if not sys.stdout.isatty() and not colour_forced():
        if tables:
            print("\n\n".join("\n".join(_plain(table)) for table in tables))
        return
    console = stdout()
    width = console.width if sys.stdout.isatty() else None
    for number, table in enumerate(tables):
        console.print(*[""] * bool(number), drawn(table, width), sep="\n", soft_wrap=True)


def drawn(table: ViewTable, width: int | None) -> Text:
    """Return a table as text of at most ``width`` cells a line; title and footer fold at words."""
    from rich.text import Text

    parts = [Text(table.title, "bold"), coloured(table, width), Text(table.footer, "dim")]
    if width is not None:
        parts[0], parts[2] = (_folded(parts[n], width) for n in (0, 2))
    return Text("\n").join(parts)


def _folded(text: Text, width: int) -> Text:
    from rich.console import Console
    from rich.text import Text

    lines = text.wrap(Console(width=width), width)
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def kept_columns(table: ViewTable, width: int | None) -> list[int]:
    """Return the columns that fit into ``width``: the lowest ``drop`` goes first, 0 never.

    A long name is cut before a column goes, down to ``NAME`` cells.
    """
    needed = [
        min(NAME, size) if column.key == "model" else size
        for column, size in zip(table.columns, _widths(table), strict=True)
    ]
    kept = list(range(len(table.columns)))
    while width is not None and _width(needed, kept) > width:
        droppable = [index for index in kept if table.columns[index].drop]
        if not droppable:
            break
        kept.remove(min(droppable, key=lambda index: table.columns[index].drop))
    return kept


def _widths(table: ViewTable) -> list[int]:
    """Return what each column needs to be shown whole."""
    columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
    return [
        max(cell_len(column.title), *(cell_len(cell.text) for cell in cells), 0)
        for column, cells in zip(table.columns, columns, strict=True)
    ]


def _width(needed: Sequence[int], kept: Sequence[int]) -> int:
    return sum(needed[index] for index in kept) + GAP * (len(kept) - 1)


def _plain(table: ViewTable) -> Iterator[str]:
    """Yield the lines of a table, title and footer included."""
    widths = _widths(table)
    yield table.title
    for row, note in _rows(table):
        cells = zip(row, table.columns, widths, strict=True)
        padded = (_padded(cell.text, column.align, width) for cell, column, width in cells)
        yield (" " * GAP).join(padded).rstrip()
        if note:
            yield INDENT + note
    yield table.footer


def coloured(table: ViewTable, width: int | None) -> Text:
    """Return the columns that fit, each at its width; the model's name is cut if it must be.

    One text and not a Rich table, which takes half a second for a thousand rows.
    """
    from rich.text import Text

    kept, widths = kept_columns(table, width), _widths(table)
    excess = 0 if width is None else max(0, _width(widths, kept) - width)
    for index in kept:
        if table.columns[index].key == "model":
            widths[index] = max(1, widths[index] - excess)
    text = Text()
    for number, (row, note) in enumerate(_rows(table)):
        text.append("\n" if number else "")
        for place, index in enumerate(kept):
            shown = _padded(row[index].text, table.columns[index].align, widths[index])
            shown = shown.rstrip() if index == kept[-1] else shown
            text.append(" " * GAP if place else "")
            text.append(shown, _style(row[index]))
        for line in _note_lines(note, width):
            text.append(f"\n{INDENT}{line}", "dim")
    return text


def _note_lines(note: str, width: int | None) -> list[str]:
    """Return what goes under a row, folded at words."""
    from rich.text import Text

    if width is None or not note:
        return [note] if note else []
    folded = _folded(Text(note), max(1, width - len(INDENT)))
    return folded.plain.split("\n")


def _rows(table: ViewTable) -> Iterator[tuple[Sequence[Cell], str]]:
    """Yield the heading, then each row, with the line under it."""
    yield tuple(Cell(column.title, dim=True) for column in table.columns), ""
    yield from table.noted()


def _padded(text: str, align: str, width: int) -> str:
    missing = width - cell_len(text)
    if missing < 0:
        return _cut(text, width)
    return " " * missing + text if align == "right" else text + " " * missing


def _cut(text: str, width: int) -> str:
    """Return a name that lost its middle: its ending, as in ``-w4a4``, tells most."""
    from rich.cells import set_cell_size

    tail = text[-(max(0, width - 1) // 3) :] if width > 3 else ""
    return set_cell_size(text, width - 1 - cell_len(tail)) + "…" + tail


def _style(cell: Cell) -> str:
    styles = [TONES[cell.tone], "bold" if cell.strong else "", "dim" if cell.dim else ""]
    if cell.link:
        styles.append(f"link {cell.link}")
    return " ".join(filter(None, styles))
