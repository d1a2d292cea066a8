"""Bytes to text: every way in which a file is not readable text has its own sentence."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from lsqctl.errors import Diagnostic, Position, RecipeError
from lsqctl.recipe_file.nodes import escape

MAX_BYTES = 1 << 20
UNREADABLE = "not readable as YAML"
_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"  # as YAML 1.2 has it
)
_UTF16_BOMS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path, file: str) -> str:
    """Return the text of a recipe file that errors call ``file``.  Raises RecipeError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable_error(file, f"the file cannot be read: {error.strerror}") from None
    return decode(data, file)


def decode(data: bytes, file: str) -> str:
    """Return ``data`` as text, without a byte order mark.  Raises RecipeError."""
    if len(data) > MAX_BYTES:
        raise _unreadable_error(file, "the file is larger than 1 MiB", "a recipe is a page of text")
    has_nul_halves = data[:2].count(0) == 1 or data[:4].count(0) == 3
    if data.startswith(_UTF16_BOMS) or (has_nul_halves and len(data) % 2 == 0):
        raise _unreadable_error(file, "the text is UTF-16 or UTF-32", "save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        valid = data[: error.start].decode("utf-8-sig")
        message = f"byte 0x{data[error.start]:02x} is not UTF-8"
        lossy = data.decode("utf-8-sig", "replace")
        raise _error_at(file, lossy, len(valid), message, "save the file as UTF-8") from None
    if bad := _UNPRINTABLE.search(text):
        char = bad.group()
        message = "a NUL character" if char == "\0" else f"the control character `{escape(char)}`"
        raise _error_at(file, text, bad.start(), message, "remove it")
    return text


def lines_of(text: str) -> tuple[str, ...]:
    """Return the lines of ``text`` as the YAML parser counts them."""
    return tuple(_LINE_BREAK.split(text))


def _error_at(file: str, text: str, offset: int, message: str, hint: str) -> RecipeError:
    before = lines_of(text[:offset])
    line, column = len(before), len(before[-1]) + 1
    source_line = lines_of(text)[line - 1]
    position = Position(line, column, column + 1)
    return RecipeError(
        [Diagnostic("R001", UNREADABLE, message, file, position, source_line, (hint,))]
    )


def _unreadable_error(file: str, message: str, *hints: str) -> RecipeError:
    return RecipeError([Diagnostic("R001", UNREADABLE, message, file, hints=hints)])
