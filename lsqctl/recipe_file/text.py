"""Bytes to text: every way in which a file is not readable text has its own sentence."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from lsqctl.errors import Diagnostic, Position, RecipeError
from lsqctl.recipe_file.nodes import visible

MAX_BYTES = 1 << 20
TITLE = "not readable as YAML"
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"  # as YAML 1.2 has it
)
_UTF16 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path, file: str) -> str:
    """Return the text of a recipe file that errors call ``file``.  Raises RecipeError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(file, f"the file cannot be read: {error.strerror}") from None
    return decode(data, file)


def decode(data: bytes, file: str) -> str:
    """Return ``data`` as text, without a byte order mark.  Raises RecipeError."""
    if len(data) > MAX_BYTES:
        raise _unreadable(file, "the file is larger than 1 MiB", "a recipe is a page of text")
    halves = data[:2].count(0) == 1 or data[:4].count(0) == 3
    if data.startswith(_UTF16) or (halves and len(data) % 2 == 0):
        raise _unreadable(file, "the text is UTF-16 or UTF-32", "save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = data[: error.start].decode("utf-8-sig")
        label = f"byte 0x{data[error.start]:02x} is not UTF-8"
        lossy = data.decode("utf-8-sig", "replace")
        raise _at(file, lossy, len(good), label, "save the file as UTF-8") from None
    if bad := _UNPRINTABLE.search(text):
        char = bad.group()
        label = "a NUL character" if char == "\0" else f"the control character `{visible(char)}`"
        raise _at(file, text, bad.start(), label, "remove it")
    return text


def lines_of(text: str) -> tuple[str, ...]:
    """Return the lines of ``text`` as the YAML parser counts them."""
    return tuple(_BREAK.split(text))


def _at(file: str, text: str, offset: int, label: str, help_: str) -> RecipeError:
    before = lines_of(text[:offset])
    line, column = len(before), len(before[-1]) + 1
    source_line = lines_of(text)[line - 1]
    position = Position(line, column, column + 1)
    return RecipeError([Diagnostic("R001", TITLE, label, file, position, source_line, (help_,))])


def _unreadable(file: str, label: str, *helps: str) -> RecipeError:
    return RecipeError([Diagnostic("R001", TITLE, label, file, hints=helps)])
