"""Faults of a recipe as text: a source window with carets, CI annotations, or JSON."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lsqctl.errors import Fault

_RED, _YELLOW, _BLUE, _BOLD, _RESET = "\x1b[1;31m", "\x1b[1;33m", "\x1b[1;34m", "\x1b[1m", "\x1b[0m"
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co"}


def format_faults(faults: Sequence[Fault], *, colour: bool = False) -> str:
    """Return each fault with its line of the source and carets, blank lines between."""
    return "\n".join(_block(fault, colour) for fault in faults)


def format_summary(faults: Sequence[Fault], ref: str, *, queued: bool = False) -> str:
    """Return the line that ends a check: how many errors, and what became of the recipe."""
    errors = sum(fault.level == "error" for fault in faults)
    warnings = len(faults) - errors
    counts = [
        f"{n} {w}{'s' * (n != 1)}" for n, w in ((errors, "error"), (warnings, "warning")) if n
    ]
    if not errors:
        return f"{_clean(ref)}: {' and '.join(counts) or 'no errors'}"
    end = "" if queued else ", nothing was queued"
    return f"{_clean(ref)}: {' and '.join(counts)}{end}. Full key list: lsqctl recipe schema"


def faults_github(faults: Sequence[Fault]) -> str:
    """Return one workflow command a fault, which a pull request shows at the line."""
    return "".join(_annotation(fault) + "\n" for fault in faults)


def faults_json(faults: Sequence[Fault]) -> str:
    """Return the faults as a JSON list; positions count from 1, ``end_column`` is exclusive."""
    rows: list[dict[str, Any]] = [{"level": fault.level, **asdict(fault)} for fault in faults]
    return json.dumps({"schema_version": 1, "faults": rows}, indent=2)


def _block(fault: Fault, colour: bool) -> str:
    def paint(text: str, style: str) -> str:
        return f"{style}{text}{_RESET}" if colour else text

    style = _RED if fault.level == "error" else _YELLOW
    cell = f" ({_clean(fault.cell)})" if fault.cell else ""
    head = paint(f"{fault.level}[{fault.code}]", style)
    lines = [f"{head}{paint(f': {_clean(fault.title)}{cell}', _BOLD)}"]
    on_command_line = fault.file.startswith("--")
    number = "" if fault.position is None or on_command_line else str(fault.position.line)
    gutter = " " * max(1, len(number))
    bar = paint("|", _BLUE)
    lines.append(f"{gutter}{paint('-->', _BLUE)} {_where(fault)}")
    if fault.position is None:
        lines.append(f"{gutter} {paint('=', _BLUE)} {_clean(fault.label)}")
    else:
        source, pad, carets = _window(fault)
        lines.append(f"{gutter} {bar}")
        lines.append(f"{paint(number or ' ', _BLUE)} {bar} {source}".rstrip())
        lines.append(f"{gutter} {bar} {pad}{paint(f'{carets} {_clean(fault.label)}', style)}")
    lines += [f"{gutter} {paint('=', _BLUE)} help: {_clean(text)}" for text in fault.helps]
    return "\n".join(lines) + "\n"


def _where(fault: Fault) -> str:
    if fault.file.startswith("--"):
        return "command line"
    if fault.position is None:
        return _clean(fault.file)
    return f"{_clean(fault.file)}:{fault.position.line}:{fault.position.column}"


def _window(fault: Fault) -> tuple[str, str, str]:
    """Return the source line, the blanks under it, and the carets, by display width."""
    assert fault.position is not None
    line = fault.source_line.rstrip()
    first, last = fault.position.column - 1, fault.position.end_column - 1
    shown = "".join(map(_one, line))
    pad = " " * (_width(line[:first]) + max(0, first - len(line)))
    return shown, pad, "^" * max(1, _width(line[first:last]))


def _one(char: str) -> str:
    if char == "\t":
        return " "
    return "\ufffd" if unicodedata.category(char) in _UNSEEN else char


def _width(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    marks = sum(unicodedata.combining(char) > 0 for char in text)
    return len(text) + wide - marks


def _clean(text: str) -> str:
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _UNSEEN else char
        for char in text
    )


def _annotation(fault: Fault) -> str:
    fields = [f"file={_escaped(fault.file, ',:')}"]
    if fault.position is not None:
        position = fault.position
        fields += [
            f"line={position.line}",
            f"col={position.column}",
            f"endColumn={position.end_column}",
        ]
    fields.append(f"title={fault.code}")
    cell = f" ({fault.cell})" if fault.cell else ""
    helps = "".join(f"\n{text}" for text in fault.helps)
    message = f"{fault.title}{cell}: {fault.label}{helps}"
    return f"::{fault.level} {','.join(fields)}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    for char in "%\r\n" + more:
        text = text.replace(char, f"%{ord(char):02X}")
    return text
