"""Draw the leaderboard with Rich: columns give way in a fixed order, nothing wraps."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lsqctl.cli.render import stdout
from lsqctl.leaderboard.view import Cell, ViewColumn, ViewTable, view

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from lsqctl.leaderboard.board import Board

GAP = 2
TONES = {"good": "green", "bad": "red", "": ""}


def draw(board: Board) -> None:
    """Print one table a dataset; in a pipe as wide as it needs to be, without colour."""
    console = stdout()
    width = console.width if sys.stdout.isatty() else None
    for number, table in enumerate(view(board)):
        if number:
            console.print()
        console.print(table.title, style="bold")
        console.print(_rich_table(table, width), crop=False, no_wrap=True, soft_wrap=width is None)
        console.print(table.footer, style="dim")


def kept_columns(table: ViewTable, width: int | None) -> list[int]:
    """Return the columns that fit into ``width``: the lowest ``drop`` goes first, 0 never."""
    kept = list(range(len(table.columns)))
    while width is not None and _width(table, kept) > width:
        droppable = [index for index in kept if table.columns[index].drop]
        if not droppable:
            break
        kept.remove(min(droppable, key=lambda index: table.columns[index].drop))
    return kept


def _width(table: ViewTable, kept: list[int]) -> int:
    return sum(_column_width(table, index) for index in kept) + GAP * (len(kept) - 1)


def _column_width(table: ViewTable, index: int) -> int:
    from rich.cells import cell_len

    texts = [table.columns[index].title, *(row[index].text for row in table.rows)]
    return max(map(cell_len, texts))


def _rich_table(table: ViewTable, width: int | None) -> Table:
    """Return the columns that fit, each at its width; the model's name is cut if it must be."""
    from rich.table import Table

    kept = kept_columns(table, width)
    excess = 0 if width is None else max(0, _width(table, kept) - width)
    drawn = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
    for index in kept:
        column: ViewColumn = table.columns[index]
        room = _column_width(table, index) - (excess if column.key == "model" else 0)
        drawn.add_column(
            column.title,
            justify=column.align,
            no_wrap=True,
            overflow="ellipsis",
            width=max(1, room),
        )
    for row in table.rows:
        drawn.add_row(*(_text(row[index]) for index in kept))
    return drawn


def _text(cell: Cell) -> Text:
    from rich.text import Text

    styles = [TONES[cell.tone], "bold" if cell.strong else "", "dim" if cell.dim else ""]
    if cell.link:
        styles.append(f"link {cell.link}")
    return Text(cell.text, style=" ".join(filter(None, styles)))
