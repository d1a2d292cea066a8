"""Hand the board to pandas: one row an entry, one typed column a column of the CSV contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.schema import COLUMN_NAMES, COLUMNS

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["DataFrame", "to_frame"]

_DTYPES: Mapping[type, str] = {int: "Int64", float: "Float64", str: "string", bool: "boolean"}


def to_frame(board: Board) -> DataFrame:
    """Return all rows of a board as a data frame of nullable types; missing is ``pd.NA``."""
    import pandas as pd

    rows = [[getattr(entry, name) for name in COLUMN_NAMES] for entry in board.entries]
    types = {column.name: _DTYPES[column.value_type] for column in COLUMNS}
    return pd.DataFrame(rows, columns=list(COLUMN_NAMES), dtype=object).astype(types)
