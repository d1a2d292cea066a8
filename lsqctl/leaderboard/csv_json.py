"""Write a board as CSV or JSON; the same board always gives the same bytes."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Sequence
from types import SimpleNamespace

from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.run_group import Value
from lsqctl.leaderboard.schema import COLUMN_NAMES, SCHEMA_VERSION, Entry
from lsqctl.text import sanitize

# What a spreadsheet may take for a formula, perhaps after blanks.
_FORMULA_START = re.compile(r"\s*[=+\-@\t\r\0＝＋－＠]")


def to_csv(board: Board, *, columns: Sequence[str] = COLUMN_NAMES, raw: bool = False) -> str:
    """Return the board in the CSV contract: one header, then the rows of all tables.

    LF, RFC 4180, empty for missing, shortest floats that read back the same. In texts, what could
    move a cursor is written out (``\\x1b``), and what a spreadsheet could take for a formula
    gets a leading ``'``; ``raw`` leaves them as they are.
    """
    rows = [[getattr(entry, name) for name in columns] for entry in board.entries]
    return csv_text([columns, *rows], raw=raw)


def csv_text(rows: Iterable[Sequence[Value]], *, raw: bool = False) -> str:
    """Return rows as CSV, each ended by LF; texts as ``to_csv`` says."""
    lines: list[str] = []
    # the writer quotes a letter of its line's end: of CR LF, which no reader may take for one
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerows([_csv_cell(value, raw=raw) for value in row] for row in rows)
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def _csv_cell(value: Value, *, raw: bool) -> Value:
    if isinstance(value, bool):
        return "true" if value else "false"
    return guard_formula(sanitize(value)) if isinstance(value, str) and not raw else value


def guard_formula(text: str) -> str:
    """Return ``text`` with a leading ``'`` if a spreadsheet could take it for a formula.

    >>> guard_formula("=1+1"), guard_formula("plain")
    ("'=1+1", 'plain')
    """
    return f"'{text}" if _FORMULA_START.match(text) else text


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
