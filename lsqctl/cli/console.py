"""Draw tables, JSON and messages: data to stdout, words to stderr, nothing untrusted as markup."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsqctl import JSON_SCHEMA_VERSION
from lsqctl.settings import color_forced
from lsqctl.text import sanitize

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from lsqctl.errors import Diagnostic

STATE_STYLES = {
    "queued": "blue",
    "waiting": "blue",
    "running": "cyan",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "lease expired": "red",
    "stale": "red",
}


def stdout_console() -> Console:
    """Return the console for data."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def stderr_console() -> Console:
    """Return the console for words."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def stderr_is_terminal() -> bool:
    """Return whether words are read by a person who wants colour."""
    return stderr_console().is_terminal and not stderr_console().no_color


def note(text: str) -> None:
    """Say something in passing, on stderr."""
    _print_stderr(text, "dim")


def say(text: str) -> None:
    """Say what was done and what to do next, on stderr."""
    _print_stderr(text, "")


def warn(text: str) -> None:
    """Say what is probably a mistake, on stderr."""
    _print_stderr(f"warning: {text}", "yellow")


def warn_diagnostic(diagnostic: Diagnostic) -> None:
    """Say in one line what is probably a mistake in a recipe, and where, on stderr."""
    _print_stderr(str(diagnostic), "yellow")


def print_error(text: str) -> None:
    """Say what went wrong, on stderr, in one line."""
    _print_stderr(f"error: {text}", "red")


def _print_stderr(text: str, style: str) -> None:
    """Print words in a style; without a terminal plainly, and without the cost of Rich."""
    if sys.stderr.isatty() or color_forced():
        stderr_console().print(sanitize(text), style=style)
    else:
        print(sanitize(text), file=sys.stderr)


def print_json(value: object, **first_keys: object) -> None:
    """Print ``value`` for a machine; an object gets the schema's version."""
    if isinstance(value, Mapping):
        value = {"schema_version": JSON_SCHEMA_VERSION, **first_keys, **value}
    print(json.dumps(to_json_types(value), indent=2, ensure_ascii=False, allow_nan=False))


def to_json_types(value: object) -> Any:
    """Return values that JSON has: dataclasses as objects, times in ISO 8601, NaN as a text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json_types(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): to_json_types(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return to_json_types(value._asdict())
    if isinstance(value, list | tuple):
        return [to_json_types(item) for item in value]
    return _to_json_leaf(value)


def _to_json_leaf(value: object) -> object:
    match value:
        case Enum():
            return value.value
        case datetime():
            return value.astimezone(UTC).isoformat()
        case Path():
            return str(value)
        case bytes():
            return value.hex()
        case float() if not math.isfinite(value):
            return repr(value)  # as the board's JSON has it: nan, inf, -inf
    return value


def print_prose(text: str) -> None:
    """Print sentences, in a terminal folded between words; in a pipe as they are."""
    if sys.stdout.isatty():
        stdout_console().print(sanitize(text), soft_wrap=False)
    else:
        print(sanitize(text))


_LEVEL_WIDTH = len("warning")


def print_fields(fields: Mapping[str, str]) -> None:
    """Print those that have a value, one a line; a terminal folds long ones, and cuts none."""
    pairs = [(key, sanitize(value)) for key, value in fields.items() if value]
    if not sys.stdout.isatty():
        for pair in pairs:
            print("\t".join(pair))
        return
    from rich.text import Text

    indent = max(len(key) for key, _ in pairs) + 2
    for key, value in pairs:
        _print_folded(Text(key.ljust(indent)), Text(value, STATE_STYLES.get(value, "")))


def print_advice(level: str, message: str, advice: str, *, style: str = "") -> None:
    """Print a finding, in a terminal folded with the advice beneath it; in a pipe, one line."""
    texts = [sanitize(text) for text in (level, message, advice)]
    if not sys.stdout.isatty():
        print("\t".join(texts))
        return
    from rich.text import Text

    label = Text(texts[0].ljust(_LEVEL_WIDTH + 2), style)
    _print_folded(label, Text(texts[1]), Text(texts[2], "dim"))


def _print_folded(label: Text, *texts: Text) -> None:
    """Print texts folded between words, one below the other, beside a label that stands once."""
    console, blank = stdout_console(), label.blank_copy(" " * len(label))
    width = max(1, console.width - len(label))
    lines = [line for text in texts for line in text.wrap(console, width) if line]
    for number, line in enumerate(lines):
        console.print((blank if number else label) + line)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right_aligned: Sequence[str] = (),
    hide_first: Sequence[str] = (),
    names: Sequence[str] = (),
    texts: Sequence[str] = (),
    styles: Mapping[str, str] = STATE_STYLES,
) -> None:
    """Draw a table in a terminal; in a pipe, tab-separated lines without a cut.

    In a terminal a column without a value is left out.  Where the rest is too wide, ``texts`` lose
    their end and ``names`` their middle, then the columns of ``hide_first`` are hidden, one by one.
    No other column is ever cut; where neither names nor texts are given, the last one is.
    """
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(map(sanitize, row)))
        return
    from lsqctl.cli.table import Column, cut_columns, styled_row, table_lines, to_text

    console = stdout_console()
    table_columns = [
        Column(
            title,
            align="right" if title in right_aligned else "left",
            priority=hide_first.index(title) + 1 if title in hide_first else 0,
            cut="" if names or texts else "end",
            optional=True,
        )
        for title in columns
    ]
    table_columns = cut_columns(table_columns, names, texts)
    lines = table_lines(table_columns, [styled_row(row, styles) for row in rows], console.width)
    console.print(to_text(lines, console.width))
