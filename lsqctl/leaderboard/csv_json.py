"""Write a board as CSV or JSON, and read the CSV; the same board always gives the same bytes."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence

from lsqctl.errors import UsageError
from lsqctl.leaderboard.board import (
    COLUMN_NAMES,
    COLUMNS,
    COLUMNS_BY_NAME,
    SCHEMA_VERSION,
    Board,
    Column,
    Entry,
)
from lsqctl.text import did_you_mean

CellValue = str | int | float | bool | None

# What a spreadsheet may take for a formula. Leading quotes count as danger too: only so can
# the guard's own quote be taken off again without touching a text that began with one.
_FORMULA_START = re.compile(r"'*\s*[=+\-@\t\r\0＝＋－＠]")
_NEEDS_QUOTES = re.compile(r'[",\r\n\0]|^\s|\s$')
_INTEGER = re.compile(r"-?[0-9]+")


def to_csv(board: Board, *, columns: Sequence[str] = COLUMN_NAMES, raw: bool = False) -> str:
    """Return the board in the CSV contract: one header, then the rows of all tables.

    LF, RFC 4180, empty for missing, shortest floats that read back the same. A text that a
    spreadsheet could take for a formula gets a leading ``'``; ``raw`` leaves it as it is.
    """
    kinds = [COLUMNS_BY_NAME[name].kind for name in columns]
    lines = [",".join(columns)]
    for entry in board.entries:
        values = (getattr(entry, name) for name in columns)
        cells = (csv_cell(v, text=k == "text", raw=raw) for v, k in zip(values, kinds, strict=True))
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def from_csv(text: str, *, raw: bool = False) -> tuple[Entry, ...]:
    """Return the rows of a CSV that ``to_csv`` wrote, equal to the board's entries.

    Columns that a later version appended are ignored. Raises UsageError for another file.
    """
    try:
        lines = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True))
    except csv.Error as error:
        raise UsageError(f"not a leaderboard CSV: {error}") from error
    header = lines[0] if lines else []
    for expected, name in zip(COLUMN_NAMES, [*header, *[""] * len(COLUMN_NAMES)], strict=False):
        if expected != name:
            hint = did_you_mean(name, COLUMN_NAMES) if name else ""
            raise UsageError(
                f"not a leaderboard CSV: expected column `{expected}`, got `{name}`{hint}"
            )
    return tuple(_parse_row(cells, line, raw=raw) for line, cells in enumerate(lines[1:], 2))


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


def guard_formula(text: str) -> str:
    """Return ``text`` with a leading ``'`` if a spreadsheet could take it for a formula.

    >>> guard("=1+1"), guard("plain")
    ("'=1+1", 'plain')
    """
    return f"'{text}" if _FORMULA_START.match(text) else text


def unguard_formula(text: str) -> str:
    """Return what ``guard`` was given, for every text."""
    return text[1:] if text.startswith("'") and _FORMULA_START.match(text[1:]) else text


def csv_cell(value: CellValue, *, text: bool, raw: bool = False) -> str:
    """Return one cell of a CSV; only what is ``text`` is guarded, unless ``raw``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not text:
        return repr(value)
    shown = str(value) if raw else guard_formula(str(value))
    return '"' + shown.replace('"', '""') + '"' if _NEEDS_QUOTES.search(shown) else shown


def _parse_row(cells: list[str], line_number: int, *, raw: bool) -> Entry:
    if len(cells) < len(COLUMNS):
        raise UsageError(f"row {line_number}: {len(cells)} cells where {len(COLUMNS)} belong")
    values: Mapping[str, CellValue] = {
        column.name: _parse_cell(column, cell, line_number, raw=raw)
        for column, cell in zip(COLUMNS, cells, strict=False)
    }
    return Entry(**values)  # type: ignore[arg-type]  # the columns say which field has which type


def _parse_cell(column: Column, cell: str, line_number: int, *, raw: bool) -> CellValue:
    if cell == "":
        return None
    if column.kind == "text":
        return cell if raw else unguard_formula(cell)
    try:
        if column.kind == "bool":
            return {"true": True, "false": False}[cell]
        return int(cell) if _INTEGER.fullmatch(cell) else float(cell)
    except (ValueError, KeyError):
        raise UsageError(
            f"row {line_number}: `{column.name}` is no {column.kind}: {cell!r}"
        ) from None


def json_value(value: CellValue) -> CellValue:
    """Return a value that JSON can hold: NaN and infinity as texts."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
