"""A pivot as data: CSV with a column a key, JSON with a list of cells."""

from __future__ import annotations

from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.columns import COLUMNS_BY_NAME, SCHEMA_VERSION
from lsqctl.leaderboard.formats import csv_cell, json_text, json_value
from lsqctl.leaderboard.pivot import Pivot, build_pivot, key_text


def pivot_csv(board: Board, pivot: Pivot) -> str:
    """Return one line a dataset and row; a column for each key, as ``weight_bits=4``."""
    pivot_tables = build_pivot(board, pivot)
    keys = list(dict.fromkeys(key for pivot_table in pivot_tables for key in pivot_table.columns))
    heads = ["dataset", pivot.row, *(f"{pivot.column}={key_text(key)}" for key in keys)]
    lines = [",".join(csv_cell(head, text=True) for head in heads)]
    text = COLUMNS_BY_NAME[pivot.value].kind == "text"
    for pivot_table in pivot_tables:
        for row in pivot_table.rows:
            entries = (pivot_table.cells.get((row, key)) for key in keys)
            values = (None if entry is None else getattr(entry, pivot.value) for entry in entries)
            names = [
                csv_cell(name, text=True) for name in (pivot_table.table.dataset, key_text(row))
            ]
            lines.append(",".join([*names, *(csv_cell(value, text=text) for value in values)]))
    return "\n".join(lines) + "\n"


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
