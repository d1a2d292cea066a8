"""Write tables as plain HTML to paste into a page: no style, no script, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from lsqctl.leaderboard.view import Cell, ViewTable


def to_html(tables: Iterable[ViewTable]) -> str:
    """Return one ``<table>`` a dataset, the best value in ``<strong>``, the second in ``<u>``."""
    return "\n".join(map(_table, tables))


def _table(table: ViewTable) -> str:
    heads = [f'<th scope="col">{escape(column.title)}</th>' for column in table.columns]
    rows = ["".join(f"<td>{_cell(cell)}</td>" for cell in row) for row in table.rows]
    lines = [
        "<table>",
        f"<caption>{escape(table.title)}</caption>",
        f"<thead><tr>{''.join(heads)}</tr></thead>",
        "<tbody>",
        *(f"<tr>{row}</tr>" for row in rows),
        "</tbody>",
        "</table>",
        f"<p>{escape(table.footer)}</p>",
    ]
    return "\n".join(lines) + "\n"


def _cell(cell: Cell) -> str:
    text = escape(cell.text.strip())
    if cell.link:
        text = f'<a href="{escape(cell.link)}" rel="noopener">{text}</a>'
    if cell.place == 1:
        return f"<strong>{text}</strong>"
    return f"<u>{text}</u>" if cell.place == 2 else text
