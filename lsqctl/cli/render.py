"""Draw tables, JSON and messages: data to stdout, words to stderr, nothing untrusted as markup."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsqctl.leaderboard.clean import clean
from lsqctl.settings import colour_forced

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 1
STATE_STYLES = {
    "queued": "blue",
    "waiting": "blue",
    "running": "cyan",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "lost": "red",
}


def stdout() -> Console:
    """Return the console for data."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def stderr() -> Console:
    """Return the console for words."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def stderr_is_terminal() -> bool:
    """Return whether words are read by a person who wants colour."""
    return stderr().is_terminal and not stderr().no_color


def note(text: str) -> None:
    """Say something in passing, on stderr."""
    _to_stderr(text, "dim")


def say(text: str) -> None:
    """Say what was done and what to do next, on stderr."""
    _to_stderr(text, "")


def warn(text: str) -> None:
    """Say what is probably a mistake, on stderr."""
    _to_stderr(f"warning: {text}", "yellow")


def error_line(text: str) -> None:
    """Say what went wrong, on stderr, in one line."""
    _to_stderr(f"error: {text}", "red")


def _to_stderr(text: str, style: str) -> None:
    """Print words in a style; without a terminal plainly, and without the cost of Rich."""
    if sys.stderr.isatty() or colour_forced():
        stderr().print(clean(text), style=style)
    else:
        print(clean(text), file=sys.stderr)


def print_json(value: object, **head: object) -> None:
    """Print ``value`` for a machine; an object gets the schema's version."""
    if isinstance(value, Mapping):
        value = {"schema_version": SCHEMA_VERSION, **head, **value}
    print(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=True))


def plain(value: Any) -> Any:
    """Return values that JSON has: dataclasses as objects, times in ISO 8601."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return _plain_leaf(value)


def _plain_leaf(value: Any) -> Any:
    match value:
        case Enum():
            return value.value
        case datetime():
            return value.astimezone(UTC).isoformat()
        case Path():
            return str(value)
        case bytes():
            return value.hex()
    return value


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    styles: Mapping[str, str] = STATE_STYLES,
) -> None:
    """Draw a table in a terminal; in a pipe, tab-separated lines without a cut."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(clean(cell) for cell in row))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="ellipsis",
            no_wrap=True,
        )
    for row in rows:
        table.add_row(*(Text(clean(cell), style=styles.get(cell, "")) for cell in row))
    stdout().print(table, soft_wrap=False)


def ago(when: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago, in the largest unit that fits; empty for None."""
    if when is None:
        return ""
    seconds = max(0.0, ((now or datetime.now(UTC)) - when).total_seconds())
    return f"{duration(seconds)} ago"


def duration(seconds: float) -> str:
    """Return a time span in two units at most."""
    seconds = int(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s" if seconds < 600 else f"{seconds // 60} min"
    if seconds < 86_400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86_400} d {seconds % 86_400 // 3600} h"
