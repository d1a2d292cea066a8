"""Hand the board to pandas: one row an entry, one typed column a column of the CSV contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsqctl.leaderboard.board import COLUMN_NAMES, Board, Entry

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["DataFrame", "to_frame"]

_DTYPES = {"int": "Int64", "float": "Float64", "str": "string", "bool": "boolean"}


def to_frame(board: Board) -> DataFrame:
    """Return all rows of a board as a data frame of nullable types; missing is ``pd.NA``."""
    import pandas as pd

    rows = [[getattr(entry, name) for name in COLUMN_NAMES] for entry in board.entries]
    types = {name: _DTYPES[Entry.__annotations__[name].split()[0]] for name in COLUMN_NAMES}
    return pd.DataFrame(rows, columns=list(COLUMN_NAMES), dtype=object).astype(types)
