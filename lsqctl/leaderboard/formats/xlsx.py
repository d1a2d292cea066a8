"""The board as a spreadsheet: the columns of the CSV contract, numbers as numbers, no formula."""

from __future__ import annotations

import io
from datetime import datetime

from lsqctl.errors import UsageError
from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.formats import board_format
from lsqctl.leaderboard.output import OutputOptions
from lsqctl.leaderboard.schema import COLUMN_NAMES
from lsqctl.text import sanitize

_UNDATED = datetime(2000, 1, 1)  # so that the same board gives the same bytes
MAX_TEXT = 32_767  # letters of a cell


@board_format(
    "xlsx",
    ending=".xlsx",
    deviations=False,
    binary=True,
    description="a spreadsheet with the columns of the CSV (extra `lsqctl[xlsx]`)",
)
def write(board: Board, options: OutputOptions) -> bytes:
    """Return a workbook of one sheet; raises UsageError for a pivot and without XlsxWriter."""
    if options.pivot:
        raise UsageError("a spreadsheet makes its own pivots; leave out --pivot")
    try:
        import xlsxwriter
    except ImportError:
        raise UsageError(
            "xlsx needs XlsxWriter: pip install 'lsqctl[xlsx]', or export .csv"
        ) from None
    data, columns = io.BytesIO(), options.columns or COLUMN_NAMES
    with xlsxwriter.Workbook(data, {"in_memory": True}) as book:
        book.set_properties({"created": _UNDATED})
        sheet = book.add_worksheet("leaderboard")
        sheet.freeze_panes(1, 0)
        sheet.autofilter(0, 0, len(board.entries), len(columns) - 1)
        for place, name in enumerate(columns):
            sheet.write_string(0, place, name, book.add_format({"bold": True}))
        for number, entry in enumerate(board.entries, 1):
            for place, name in enumerate(columns):
                match getattr(entry, name):
                    case bool() as flag:
                        sheet.write_boolean(number, place, flag)
                    case str() as text:
                        sheet.write_string(number, place, sanitize(text)[:MAX_TEXT])
                    case int() | float() as value:
                        sheet.write_number(number, place, value)
    return data.getvalue()
