"""Write tables as LaTeX (booktabs): escaped, the best value bold, the second underlined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING

from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.formats import board_format
from lsqctl.leaderboard.output import OutputOptions, board_tables
from lsqctl.leaderboard.table_view import (
    FULL_PRECISION_MARKER,
    LOCAL_MARKER,
    PUBLISHED_MARKER,
    RECORDED_MARKER,
    ViewTable,
)

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

_PREAMBLE_COMMENT = (
    "% needs \\usepackage{booktabs}; letters beyond Latin need XeLaTeX or LuaLaTeX\n"
)
_PODIUM_STYLES = {0: "", 1: "textbf: --rwrap;", 2: "underline: --rwrap;"}

# Signs of ours that pdfLaTeX has not as letters. A bracket after a line's end would be read as an
# argument of it.
_LATEX_SYMBOLS = str.maketrans(
    {
        "±": r"$\pm$",
        "−": "$-$",
        "–": "--",
        "·": r"$\cdot$",
        "×": r"$\times$",
        "Δ": r"$\Delta$",
        LOCAL_MARKER: r"$\bullet$",
        RECORDED_MARKER: r"$\diamond$",
        PUBLISHED_MARKER: r"$\circ$",
        FULL_PRECISION_MARKER: r"$\star$",
        "…": r"\ldots{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",
        "]": "{]}",
    }
)


@board_format(
    "latex", ending=".tex", description="booktabs, escaped; the best rank bold, the next underlined"
)
def write(board: Board, options: OutputOptions) -> str:
    """Return the board's tables."""
    return to_latex(board_tables(board, options))


def to_latex(tables: Iterable[ViewTable]) -> str:
    """Return one ``tabular`` a table with rows, each below a comment that says what it shows."""
    return _PREAMBLE_COMMENT + "".join(f"\n{_table(table)}" for table in tables if table.rows)


def _table(table: ViewTable) -> str:
    layout = "".join("r" if column.align == "right" else "l" for column in table.columns)
    text = _with_notes(_styled(table).to_latex(hrules=True, column_format=layout), table)
    return f"% {table.title}\n{text.translate(_LATEX_SYMBOLS)}% {table.footer}\n"


def _with_notes(text: str, table: ViewTable) -> str:
    """Return the tabular with each row's note below it, over all columns."""
    if not table.notes:
        return text
    head, body = text.split("\\midrule\n")
    rows = body.splitlines(keepends=True)
    cell = f"\\multicolumn{{{len(table.columns)}}}{{p{{0.9\\linewidth}}}}"
    for number, note in enumerate(_escape_all(table.notes)):
        if note:
            rows[number] += f"{cell}{{\\footnotesize {note}}} \\\\\n"
    return f"{head}\\midrule\n{''.join(rows)}"


def _escape_all(texts: Sequence[str]) -> list[str]:
    import pandas as pd

    styler = pd.DataFrame({"": texts}).style.hide(axis="index").hide(axis="columns")
    lines = styler.format(escape="latex").to_latex().splitlines()[1:-1]
    return [line.removesuffix("\\\\").strip() for line in lines]


def _styled(table: ViewTable) -> Styler:
    import pandas as pd

    titles: list[str] = []
    for column in table.columns:  # labels of a Styler must differ, and blanks are not seen
        blanks = (" " * n for n in count())
        titles.append(next(t for n in blanks if (t := column.title + n) not in titles))
    texts = [[cell.text.strip() for cell in row] for row in table.rows]
    frame = pd.DataFrame(texts, columns=titles, dtype=object)
    marks = pd.DataFrame([[_PODIUM_STYLES[cell.podium] for cell in row] for row in table.rows])
    marks.columns = frame.columns[: len(marks.columns)]
    styler = frame.style.hide(axis="index").format(escape="latex")
    styler = styler.format_index(escape="latex", axis=1)
    return styler.apply(lambda _: marks, axis=None)
