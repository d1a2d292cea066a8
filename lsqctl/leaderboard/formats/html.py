"""Write tables as plain HTML to paste into a page: no style, no script, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.formats import board_format
from lsqctl.leaderboard.output import OutputOptions, board_tables
from lsqctl.leaderboard.table_view import Cell, ViewTable


@board_format(
    "html",
    ending=".html",
    description="a plain `<table>` to paste; `leaderboard --html FILE` writes [the page](page.md)",
)
def write(board: Board, options: OutputOptions) -> str:
    """Return the board's tables."""
    return to_html(board_tables(board, options))


def to_html(tables: Iterable[ViewTable]) -> str:
    """Return one ``<table>`` a dataset with rows, the best in ``<strong>``, the next in ``<u>``."""
    return "\n".join(_table(table) for table in tables if table.rows)


def _table(table: ViewTable) -> str:
    heads = [f'<th scope="col">{escape(column.title)}</th>' for column in table.columns]
    rows = [row for cells, note in table.rows_with_notes() for row in _row_lines(cells, note)]
    lines = [
        "<table>",
        f"<caption>{escape(table.title)}</caption>",
        f"<thead><tr>{''.join(heads)}</tr></thead>",
        "<tbody>",
        *rows,
        "</tbody>",
        "</table>",
        f"<p>{escape(table.footer)}</p>",
    ]
    return "\n".join(lines) + "\n"


def _row_lines(cells: Sequence[Cell], note: str) -> Iterator[str]:
    yield f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in cells)}</tr>"
    if note:
        yield f'<tr><td colspan="{len(cells)}"><small>{escape(note)}</small></td></tr>'


def _cell(cell: Cell) -> str:
    text = escape(cell.text.strip())
    if cell.link:
        text = f'<a href="{escape(cell.link)}" rel="noopener">{text}</a>'
    if cell.podium == 1:
        return f"<strong>{text}</strong>"
    return f"<u>{text}</u>" if cell.podium == 2 else text
