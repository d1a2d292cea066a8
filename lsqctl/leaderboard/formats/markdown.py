"""Write tables as GitHub's markdown, one below the other; names show letter by letter."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.formats import board_format
from lsqctl.leaderboard.output import OutputOptions, board_tables
from lsqctl.leaderboard.table_view import Cell, ViewColumn, ViewTable

_SPECIAL_CHARACTERS = re.compile(r"([\\`*_\[\]<>|~&#])")


@board_format("md", ending=".md", description="GitHub's markdown, the columns of the terminal")
def write(board: Board, options: OutputOptions) -> str:
    """Return the board's tables."""
    return to_markdown(board_tables(board, options))


def to_markdown(tables: Iterable[ViewTable]) -> str:
    """Return one markdown table a dataset with rows, with the columns that a terminal shows."""
    return "\n".join(_table(table) for table in tables if table.rows)


def _table(table: ViewTable) -> str:
    heading = [f"### {escape_markdown(table.title)}", ""]
    titles = [escape_markdown(column.title) for column in table.columns]
    rules = [_alignment_rule(column) for column in table.columns]
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, rules, *rows)]
    names = [column.key for column in table.columns]
    notes = [
        f"- {_markdown_cell(row[names.index('model')]) if 'model' in names else number}: "
        f"{escape_markdown(note)}"
        for number, (row, note) in enumerate(table.rows_with_notes(), 1)
        if note
    ]
    below = [*notes, ""] if notes else []
    return "\n".join([*heading, *lines, "", *below, escape_markdown(table.footer), ""])


def _alignment_rule(column: ViewColumn) -> str:
    return "---:" if column.align == "right" else ":---"


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text.strip())
    if not cell.link:
        return text
    return f"[{text}](<{re.sub(r'[<>|]', lambda match: f'%{ord(match[0]):02X}', cell.link)}>)"


def escape_markdown(text: str) -> str:
    r"""Return ``text`` so that markdown shows it letter by letter, in one cell.

    >>> print(escape_markdown("a|b_c"))
    a\|b\_c
    """
    return _SPECIAL_CHARACTERS.sub(r"\\\1", " ".join(text.splitlines()))
