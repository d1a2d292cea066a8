"""The board as JSON: ``schema_version``, then tables of rows keyed by column."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.formats import board_format
from lsqctl.leaderboard.output import OutputOptions
from lsqctl.leaderboard.pivot import Pivot, build_pivot
from lsqctl.leaderboard.run_group import Value
from lsqctl.leaderboard.schema import COLUMN_NAMES, SCHEMA_VERSION, Entry


@board_format(
    "json",
    ending=".json",
    description="the same, in tables with counts, sections and `schema_version`",
)
def write(board: Board, options: OutputOptions) -> str:
    """Return the board's columns, or its pivot."""
    if options.pivot:
        return pivot_json(board, options.pivot)
    return to_json(board, columns=options.columns or COLUMN_NAMES)


def to_json(board: Board, *, columns: Sequence[str] = COLUMN_NAMES) -> str:
    """Return the board as JSON: ``schema_version``, then tables of rows keyed by column.

    Missing is null; NaN and infinity, which JSON does not have, are texts.
    """
    tables = [
        {
            "dataset": table.dataset,
            "group": dict(table.group),
            "hidden": table.hidden,
            "counts": {name: getattr(table.counts, name) for name in table.counts.__slots__},
            "rows": [_json_row(board, row, columns) for row in table.rows],
        }
        for table in board.tables
    ]
    document = {
        "schema_version": SCHEMA_VERSION,
        "best_seed": board.best_seed,
        "per_run": board.per_run,
        "tables": tables,
    }
    return json_text(document)


def _json_row(board: Board, entry: Entry, columns: Sequence[str]) -> dict[str, object]:
    row: dict[str, object] = {name: json_value(getattr(entry, name)) for name in columns}
    if deviations := board.deviations_of(entry):
        keys = {
            key: {"value": value, "base_value": base_value}
            for key, value, base_value in deviations.keys
        }
        row["deviations"] = {"from": deviations.base or None, "keys": keys}
    return row


def json_text(document: object) -> str:
    """Return JSON as files hold it: indented, letters as they are, ended by a line."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def json_value(value: Value) -> Value:
    """Return a value that JSON can hold: NaN and infinity as texts."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def pivot_json(board: Board, pivot: Pivot) -> str:
    """Return each dataset's cells: row, column, value, and the model that it is of."""
    tables = [
        {
            "dataset": pivot_table.table.dataset,
            "group": dict(pivot_table.table.group),
            "cells": [
                {
                    "row": json_value(row),
                    "column": json_value(column),
                    "value": json_value(getattr(entry, pivot.value)),
                    "model": entry.model,
                }
                for (row, column), entry in pivot_table.cells.items()
            ],
        }
        for pivot_table in build_pivot(board, pivot)
    ]
    pivoted = {"row": pivot.row, "column": pivot.column, "value": pivot.value}
    return json_text({"schema_version": SCHEMA_VERSION, "pivot": pivoted, "tables": tables})
