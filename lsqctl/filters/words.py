"""Cut the text of a filter into words, each with its place; what is none of them is refused."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from lsqctl.errors import Diagnostic, FilterError, Position
from lsqctl.filters.tree import Value

OPTION = "--where"
LENGTH = 2_000  # letters of a filter
KEYWORDS = frozenset({"and", "or", "not", "in", "like", "is", "true", "false", "null"})

_WORD = re.compile(
    r"""(?P<blank>\s+)
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_.]*)
      | (?P<sign><=|>=|!=|<>|==|!~|[=<>~(),])""",
    re.VERBOSE,
)
_SAME = {"==": "=", "<>": "!="}
_CURLED = "‘’“”„«»`´"


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a filter; ``end`` is exclusive. ``key`` is a keyword or sign, folded."""

    kind: Literal["text", "number", "name", "keyword", "sign", "end"]
    key: str
    value: Value
    start: int
    end: int


def words(text: str) -> list[Word]:
    """Return the words of a filter, an ``end`` last.  Raises FilterError."""
    if len(text) > LENGTH:
        raise too_much(f"a filter has at most {LENGTH:,} letters, this one {len(text):,}")
    found, place = [], 0
    while place < len(text):
        match = _WORD.match(text, place)
        if match is None:
            raise _stray(text, place)
        place = match.end()
        if match.lastgroup != "blank":
            found.append(_word(match, text))
    return [*found, Word("end", "", None, len(text), len(text) + 1)]


def _word(match: re.Match[str], text: str) -> Word:
    shown, start, end = match[0], match.start(), match.end()
    match match.lastgroup:
        case "text":
            return Word("text", "", _unquoted(shown, text, start, end), start, end)
        case "number":
            return Word("number", "", _number(shown, text, start, end), start, end)
        case "name" if shown.lower() in KEYWORDS:
            return Word("keyword", shown.lower(), None, start, end)
        case "name":
            return Word("name", shown, None, start, end)
    return Word("sign", _SAME.get(shown, shown), None, start, end)


def _unquoted(shown: str, text: str, start: int, end: int) -> str:
    if "\0" in shown:
        raise refusal("F001", text, (start, end), "a text here cannot hold a NUL character")
    return shown[1:-1].replace(shown[0] * 2, shown[0])


def _number(shown: str, text: str, start: int, end: int) -> int | float:
    digits = shown.lstrip("+-")
    if digits.isdecimal() and len(digits) <= 18:  # what fits a database's integer
        return int(shown)
    value = float(shown)
    if math.isinf(value):
        raise refusal("F001", text, (start, end), "this number is larger than any that is stored")
    return value


def _stray(text: str, place: int) -> FilterError:
    if text[place] in "'\"":
        helps = (f"close it with another {text[place]}; write one inside as two",)
        return refusal("F001", text, (place, len(text)), "this text is not closed", helps)
    if text[place] in _CURLED:
        helps = ("quote a text with plain ' or \"",)
        return refusal("F001", text, (place, place + 1), "this is no quote here", helps)
    return refusal("F001", text, (place, place + 1), "this has no meaning here", _GRAMMAR)


_GRAMMAR = ("compare with = != < <= > >= in like ~, join with and, or, not and ( )",)
_TITLES = {
    "F001": "this is no filter",
    "F002": "unknown column",
    "F003": "a value of another kind",
    "F004": "too much for one filter",
}


def refusal(
    code: str, text: str, span: tuple[int, int], label: str, helps: tuple[str, ...] = ()
) -> FilterError:
    """Return the error that points at a span of the filter's text; ``end`` is exclusive."""
    start, end = span
    place = Position(1, start + 1, max(end, start + 1) + 1)
    return FilterError(Diagnostic(code, _TITLES[code], label, OPTION, place, text, helps))


def too_much(label: str) -> FilterError:
    """Return the error for a filter beyond a limit."""
    return FilterError(Diagnostic("F004", _TITLES["F004"], label, OPTION))


def unexpected(text: str, word: Word, wanted: str) -> FilterError:
    """Return the error for a word that cannot stand where it does."""
    label = f"{wanted} must stand here"
    if word.kind == "end":
        label += ", but the filter ends"
    return refusal("F001", text, (word.start, word.end), label, _GRAMMAR)
