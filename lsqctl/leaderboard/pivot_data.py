"""A pivot as data: CSV with a column a key, JSON with a list of cells."""

from __future__ import annotations

from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.columns import BY_NAME, SCHEMA_VERSION
from lsqctl.leaderboard.formats import csv_cell, json_text, spelled
from lsqctl.leaderboard.pivot import Pivot, cross, key_text


def pivot_csv(board: Board, pivot: Pivot) -> str:
    """Return one line a dataset and row; a column for each key, as ``w_bits=4``."""
    found = cross(board, pivot)
    keys = list(dict.fromkeys(key for one in found for key in one.columns))
    heads = ["dataset", pivot.row, *(f"{pivot.column}={key_text(key)}" for key in keys)]
    lines = [",".join(csv_cell(head, text=True) for head in heads)]
    text = BY_NAME[pivot.value].kind == "text"
    for one in found:
        for row in one.rows:
            entries = (one.cells.get((row, key)) for key in keys)
            values = (None if e is None else getattr(e, pivot.value) for e in entries)
            names = [csv_cell(name, text=True) for name in (one.table.dataset, key_text(row))]
            lines.append(",".join([*names, *(csv_cell(value, text=text) for value in values)]))
    return "\n".join(lines) + "\n"


def pivot_json(board: Board, pivot: Pivot) -> str:
    """Return each dataset's cells: row, column, value, and the model that it is of."""
    tables = [
        {
            "dataset": one.table.dataset,
            "group": dict(one.table.group),
            "cells": [
                {
                    "row": spelled(row),
                    "column": spelled(column),
                    "value": spelled(getattr(entry, pivot.value)),
                    "model": entry.model,
                }
                for (row, column), entry in one.cells.items()
            ],
        }
        for one in cross(board, pivot)
    ]
    pivoted = {"row": pivot.row, "column": pivot.column, "value": pivot.value}
    return json_text({"schema_version": SCHEMA_VERSION, "pivot": pivoted, "tables": tables})
