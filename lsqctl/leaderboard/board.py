"""The board as a value: one table a dataset, its rows ranked and counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lsqctl.leaderboard.schema import COLUMN_NAMES, COLUMNS, Entry

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Board", "Counts", "DataFrame", "Deviations", "Table", "to_frame"]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there are, so that nothing is dropped in silence.

    ``groups`` are the local rows; ``empty_groups`` the recipes without one result, which have no
    row. ``runs`` are all that ended, ``failed`` and ``cancelled`` among them.
    """

    groups: int = 0
    runs: int = 0
    failed: int = 0
    cancelled: int = 0
    empty_groups: int = 0
    published: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one dataset, best first; full precision last, without a rank.

    ``group`` says which part of the dataset's rows these are, as (column, value), or ("images",
    digest) where a dataset was evaluated on several sets of images. ``hidden`` counts the rows
    that were ranked and are not shown; ``tied_ranks`` are shared by rows, shown or not.
    """

    dataset: str
    rows: tuple[Entry, ...]
    counts: Counts
    group: tuple[tuple[str, str], ...] = ()
    hidden: int = 0
    tied_ranks: frozenset[int] = frozenset()

    @property
    def partial(self) -> bool:
        """Whether its runs saw a part of the dataset's images."""
        return any(row.partial for row in self.rows)


@dataclass(frozen=True, slots=True)
class Deviations:
    """Where a run's recipe deviates from ``base``, the paper's; empty where the paper has none.

    ``keys`` are (key, its value here, its value there), as texts.
    """

    base: str
    keys: tuple[tuple[str, str, str], ...]

    @property
    def text(self) -> str:
        """One line for people: ``deviates from paper/w4a4: train.lr 0.04 (0.01), …``."""
        if not self.base:
            return "the paper has no recipe for these bits"
        if not self.keys:
            return f"as {self.base}"
        listed = ", ".join(f"{key} {value} ({base_value})" for key, value, base_value in self.keys)
        return f"deviates from {self.base}: {listed}"


@dataclass(frozen=True, slots=True)
class Board:
    """One table a dataset; ``best_seed`` and ``per_run`` say how it was asked for.

    ``deviations``, where they were asked for, are by the ``best_run`` of a row.
    """

    tables: tuple[Table, ...]
    best_seed: bool = False
    per_run: bool = False
    deviations: Mapping[str, Deviations] = field(default_factory=dict)

    def deviations_of(self, entry: Entry) -> Deviations | None:
        """Return where a row deviates from the paper's recipe; None where nobody asked."""
        return self.deviations.get(entry.best_run) if entry.is_local and entry.best_run else None

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All rows of all tables, in order."""
        return tuple(entry for table in self.tables for entry in table.rows)


_DTYPES: Mapping[type, str] = {int: "Int64", float: "Float64", str: "string", bool: "boolean"}


def to_frame(board: Board) -> DataFrame:
    """Return all rows of a board as a data frame of nullable types; missing is ``pd.NA``."""
    import pandas as pd

    rows = [[getattr(entry, name) for name in COLUMN_NAMES] for entry in board.entries]
    types = {column.name: _DTYPES[column.value_type] for column in COLUMNS}
    return pd.DataFrame(rows, columns=list(COLUMN_NAMES), dtype=object).astype(types)
