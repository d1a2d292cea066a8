"""Write a board as CSV or JSON, and read the CSV; the same board always gives the same bytes."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence

from lsqctl.errors import UsageError, did_you_mean
from lsqctl.leaderboard.board import Board, Entry
from lsqctl.leaderboard.columns import BY_NAME, COLUMNS, NAMES, SCHEMA_VERSION, Column

Value = str | int | float | bool | None

# What a spreadsheet may take for a formula. Leading quotes count as danger too: only so can
# the guard's own quote be taken off again without touching a text that began with one.
_FORMULA = re.compile(r"'*\s*[=+\-@\t\r\0＝＋－＠]")
_QUOTED = re.compile(r'[",\r\n\0]|^\s|\s$')
_WHOLE = re.compile(r"-?[0-9]+")


def to_csv(board: Board, *, columns: Sequence[str] = NAMES, raw: bool = False) -> str:
    """Return the board in the CSV contract: one header, then the rows of all tables.

    LF, RFC 4180, empty for missing, shortest floats that read back the same. A text that a
    spreadsheet could take for a formula gets a leading ``'``; ``raw`` leaves it as it is.
    """
    kinds = [BY_NAME[name].kind for name in columns]
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
    for expected, found in zip(NAMES, [*header, *[""] * len(NAMES)], strict=False):
        if expected != found:
            hint = did_you_mean(found, NAMES) if found else ""
            raise UsageError(
                f"not a leaderboard CSV: expected column `{expected}`, got `{found}`{hint}"
            )
    return tuple(_entry(cells, line, raw=raw) for line, cells in enumerate(lines[1:], 2))


def to_json(board: Board, *, columns: Sequence[str] = NAMES) -> str:
    """Return the board as JSON: ``schema_version``, then tables of rows keyed by column.

    Missing is null; NaN and infinity, which JSON does not have, are texts.
    """
    tables = [
        {
            "dataset": table.dataset,
            "group": dict(table.group),
            "hidden": table.hidden,
            "counts": {name: getattr(table.counts, name) for name in table.counts.__slots__},
            "rows": [_row(board, row, columns) for row in table.rows],
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


def _row(board: Board, entry: Entry, columns: Sequence[str]) -> dict[str, object]:
    row: dict[str, object] = {name: spelled(getattr(entry, name)) for name in columns}
    if departure := board.departure(entry):
        keys = {key: {"mine": mine, "theirs": theirs} for key, mine, theirs in departure.keys}
        row["deviations"] = {"from": departure.base or None, "keys": keys}
    return row


def json_text(document: object) -> str:
    """Return JSON as files hold it: indented, letters as they are, ended by a line."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def guard(text: str) -> str:
    """Return ``text`` with a leading ``'`` if a spreadsheet could take it for a formula.

    >>> guard("=1+1"), guard("plain")
    ("'=1+1", 'plain')
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unguard(text: str) -> str:
    """Return what ``guard`` was given, for every text."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def csv_cell(value: Value, *, text: bool, raw: bool = False) -> str:
    """Return one cell of a CSV; only what is ``text`` is guarded, unless ``raw``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not text:
        return repr(value)
    shown = str(value) if raw else guard(str(value))
    return '"' + shown.replace('"', '""') + '"' if _QUOTED.search(shown) else shown


def _entry(cells: list[str], line: int, *, raw: bool) -> Entry:
    if len(cells) < len(COLUMNS):
        raise UsageError(f"row {line}: {len(cells)} cells where {len(COLUMNS)} belong")
    values: Mapping[str, Value] = {
        column.name: _value(column, cell, line, raw=raw)
        for column, cell in zip(COLUMNS, cells, strict=False)
    }
    return Entry(**values)  # type: ignore[arg-type]  # the columns say which field has which type


def _value(column: Column, cell: str, line: int, *, raw: bool) -> Value:
    if cell == "":
        return None
    if column.kind == "text":
        return cell if raw else unguard(cell)
    try:
        if column.kind == "bool":
            return {"true": True, "false": False}[cell]
        return int(cell) if _WHOLE.fullmatch(cell) else float(cell)
    except (ValueError, KeyError):
        raise UsageError(f"row {line}: `{column.name}` is no {column.kind}: {cell!r}") from None


def spelled(value: Value) -> Value:
    """Return a value that JSON can hold: NaN and infinity as texts."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
