"""Diagnostics of a recipe as text with carets, CI annotations or JSON, and `explain`."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from lsqctl import JSON_SCHEMA_VERSION
from lsqctl.cli import completion
from lsqctl.cli.console import print_json, print_prose, print_table
from lsqctl.cli.options import Json
from lsqctl.errors import Diagnostic, NotFound
from lsqctl.text import did_you_mean, is_invisible, pluralize, sanitize

CodeArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="CODE",
        help="R…: a recipe, F…: a filter, W…: a warning; or why a run ended.",
        autocompletion=completion.codes,
    ),
]


def register(app: typer.Typer) -> None:
    """Add `explain` to the top level."""
    app.command(epilog="Example: lsqctl explain R101")(explain)


def explain(code: CodeArgument = None, json: Json = False) -> None:
    """Say what an error's code or the reason of an end means.

    Without one, list them.
    """
    from lsqctl.recipe_file.error_codes import EXPLANATIONS

    by_spelling = {name.lower(): name for name in EXPLANATIONS}
    names = list(EXPLANATIONS)
    if code is not None:
        word = code.strip("[]")
        if word.lower() not in by_spelling:
            raise NotFound(
                f"no error has the code `{word}` and no run ends for it"
                f"{did_you_mean(word, EXPLANATIONS)}; known: {', '.join(EXPLANATIONS)}"
            )
        names = [by_spelling[word.lower()]]
    if json:
        print_json({"codes": [{"code": name, **EXPLANATIONS[name]._asdict()} for name in names]})
    elif code is None:
        print_table(("code", "title"), [(name, EXPLANATIONS[name].title) for name in names])
    else:
        entry = EXPLANATIONS[names[0]]
        example = "".join(f"    {line}\n" for line in entry.example.splitlines())
        print(f"{names[0]}: {entry.title}\n")
        print_prose(entry.explanation)
        sys.stdout.write(f"\n{example}")


_RED, _YELLOW, _BLUE, _BOLD, _RESET = "\x1b[1;31m", "\x1b[1;33m", "\x1b[1;34m", "\x1b[1m", "\x1b[0m"


def format_diagnostics(diagnostics: Sequence[Diagnostic], *, colour: bool = False) -> str:
    """Return each diagnostic with its line of the source and carets, blank lines between."""
    return "\n".join(_format_block(diagnostic, colour) for diagnostic in diagnostics)


def format_summary(
    diagnostics: Sequence[Diagnostic], recipe_ref: str, *, queued: bool = False
) -> str:
    """Return the line that ends a check: how many errors, and what became of the recipe."""
    errors = sum(diagnostic.level == "error" for diagnostic in diagnostics)
    warnings = len(diagnostics) - errors
    counts = [
        pluralize(count, noun)
        for count, noun in ((errors, "error"), (warnings, "warning"))
        if count
    ]
    if not errors:
        return f"{sanitize(recipe_ref)}: {' and '.join(counts) or 'no errors'}"
    end = "" if queued else ", nothing was queued"
    summary = f"{sanitize(recipe_ref)}: {' and '.join(counts)}{end}"
    return f"{summary}. Full key list: lsqctl recipe schema"


def format_github(diagnostics: Sequence[Diagnostic]) -> str:
    """Return one workflow command a diagnostic, which a pull request shows at the line."""
    return "".join(_github_annotation(diagnostic) + "\n" for diagnostic in diagnostics)


def format_json(diagnostics: Sequence[Diagnostic]) -> str:
    """Return a JSON list of diagnostics; positions count from 1, ``end_column`` is exclusive."""
    rows: list[dict[str, object]] = [
        {"level": diagnostic.level, **asdict(diagnostic)} for diagnostic in diagnostics
    ]
    return json.dumps({"schema_version": JSON_SCHEMA_VERSION, "diagnostics": rows}, indent=2)


def _format_block(diagnostic: Diagnostic, colour: bool) -> str:
    def paint(text: str, style: str) -> str:
        return f"{style}{text}{_RESET}" if colour else text

    style = _RED if diagnostic.level == "error" else _YELLOW
    cell = f" ({sanitize(diagnostic.cell)})" if diagnostic.cell else ""
    head = paint(f"{diagnostic.level}[{diagnostic.code}]", style)
    lines = [f"{head}{paint(f': {sanitize(diagnostic.title)}{cell}', _BOLD)}"]
    on_command_line = diagnostic.file.startswith("--")
    number = "" if diagnostic.position is None or on_command_line else str(diagnostic.position.line)
    gutter = " " * max(1, len(number))
    bar = paint("|", _BLUE)
    lines.append(f"{gutter}{paint('-->', _BLUE)} {_location(diagnostic)}")
    if diagnostic.position is None:
        lines.append(f"{gutter} {paint('=', _BLUE)} {sanitize(diagnostic.message)}")
    else:
        source, pad, carets = _source_window(diagnostic)
        lines.append(f"{gutter} {bar}")
        lines.append(f"{paint(number or ' ', _BLUE)} {bar} {source}".rstrip())
        pointed = f"{carets} {sanitize(diagnostic.message)}"
        lines.append(f"{gutter} {bar} {pad}{paint(pointed, style)}")
    lines += [f"{gutter} {paint('=', _BLUE)} help: {sanitize(text)}" for text in diagnostic.hints]
    return "\n".join(lines) + "\n"


def _location(diagnostic: Diagnostic) -> str:
    if diagnostic.file.startswith("--"):
        return "command line"
    if diagnostic.position is None:
        return sanitize(diagnostic.file)
    position = diagnostic.position
    return f"{sanitize(diagnostic.file)}:{position.line}:{position.column}"


def _source_window(diagnostic: Diagnostic) -> tuple[str, str, str]:
    """Return the source line, the blanks under it, and the carets, by display width."""
    assert diagnostic.position is not None
    line = diagnostic.source_line.rstrip()
    first, last = diagnostic.position.column - 1, diagnostic.position.end_column - 1
    visible = "".join(map(_visible_char, line))
    pad = " " * (_display_width(line[:first]) + max(0, first - len(line)))
    return visible, pad, "^" * max(1, _display_width(line[first:last]))


def _visible_char(char: str) -> str:
    if char == "\t":
        return " "
    return "\ufffd" if is_invisible(char) else char


def _display_width(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    marks = sum(unicodedata.combining(char) > 0 for char in text)
    return len(text) + wide - marks


def _github_annotation(diagnostic: Diagnostic) -> str:
    fields = [f"file={_github_escape(diagnostic.file, ',:')}"]
    if diagnostic.position is not None:
        position = diagnostic.position
        fields += [
            f"line={position.line}",
            f"col={position.column}",
            f"endColumn={position.end_column}",
        ]
    fields.append(f"title={diagnostic.code}")
    cell = f" ({diagnostic.cell})" if diagnostic.cell else ""
    hints = "".join(f"\n{text}" for text in diagnostic.hints)
    message = f"{diagnostic.title}{cell}: {diagnostic.message}{hints}"
    return f"::{diagnostic.level} {','.join(fields)}::{_github_escape(message)}"


def _github_escape(text: str, extra_chars: str = "") -> str:
    for char in "%\r\n" + extra_chars:
        text = text.replace(char, f"%{ord(char):02X}")
    return text
