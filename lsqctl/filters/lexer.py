"""Cut the text of a filter into tokens, each with its position; what is none is refused."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from lsqctl.errors import Diagnostic, FilterError, Position
from lsqctl.filters.expression import Value

OPTION = "--where"
MAX_LENGTH = 2_000  # letters of a filter
KEYWORDS = frozenset({"and", "or", "not", "in", "like", "is", "true", "false", "null"})

_TOKEN = re.compile(
    r"""(?P<blank>\s+)
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_.]*)
      | (?P<sign><=|>=|!=|<>|==|!~|[=<>~(),])""",
    re.VERBOSE,
)
_SYNONYMS = {"==": "=", "<>": "!="}
_CURLY_QUOTES = "‘’“”„«»`´"


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a filter; ``end`` is exclusive. ``key`` is a keyword or sign, folded."""

    kind: Literal["text", "number", "name", "keyword", "sign", "end"]
    key: str
    value: Value
    start: int
    end: int


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a filter, an ``end`` last.  Raises FilterError."""
    if len(text) > MAX_LENGTH:
        raise limit_error(f"a filter has at most {MAX_LENGTH:,} letters, this one {len(text):,}")
    tokens, offset = [], 0
    while offset < len(text):
        match = _TOKEN.match(text, offset)
        if match is None:
            raise _stray_character(text, offset)
        offset = match.end()
        if match.lastgroup != "blank":
            tokens.append(_token_of(match, text))
    return [*tokens, Token("end", "", None, len(text), len(text) + 1)]


def _token_of(match: re.Match[str], text: str) -> Token:
    lexeme, start, end = match[0], match.start(), match.end()
    match match.lastgroup:
        case "text":
            return Token("text", "", _unquote(lexeme, text, start, end), start, end)
        case "number":
            return Token("number", "", _parse_number(lexeme, text, start, end), start, end)
        case "name" if lexeme.lower() in KEYWORDS:
            return Token("keyword", lexeme.lower(), None, start, end)
        case "name":
            return Token("name", lexeme, None, start, end)
    return Token("sign", _SYNONYMS.get(lexeme, lexeme), None, start, end)


def _unquote(lexeme: str, text: str, start: int, end: int) -> str:
    if "\0" in lexeme:
        raise error_at("F001", text, (start, end), "a text here cannot hold a NUL character")
    return lexeme[1:-1].replace(lexeme[0] * 2, lexeme[0])


def _parse_number(lexeme: str, text: str, start: int, end: int) -> int | float:
    digits = lexeme.lstrip("+-")
    if digits.isdecimal() and len(digits) <= 18:  # what fits a database's integer
        return int(lexeme)
    value = float(lexeme)
    if math.isinf(value):
        raise error_at("F001", text, (start, end), "this number is larger than any that is stored")
    return value


def _stray_character(text: str, offset: int) -> FilterError:
    if text[offset] in "'\"":
        hints = (f"close it with another {text[offset]}; write one inside as two",)
        return error_at("F001", text, (offset, len(text)), "this text is not closed", hints)
    if text[offset] in _CURLY_QUOTES:
        hints = ("quote a text with plain ' or \"",)
        return error_at("F001", text, (offset, offset + 1), "this is no quote here", hints)
    return error_at("F001", text, (offset, offset + 1), "this has no meaning here", _GRAMMAR_HINTS)


_GRAMMAR_HINTS = ("compare with = != < <= > >= in like ~, join with and, or, not and ( )",)
_TITLES = {
    "F001": "this is no filter",
    "F002": "unknown column",
    "F003": "a value of another kind",
    "F004": "too much for one filter",
}


def error_at(
    code: str, text: str, span: tuple[int, int], message: str, hints: tuple[str, ...] = ()
) -> FilterError:
    """Return the error that points at a span of the filter's text; ``end`` is exclusive."""
    start, end = span
    position = Position(1, start + 1, max(end, start + 1) + 1)
    return FilterError(Diagnostic(code, _TITLES[code], message, OPTION, position, text, hints))


def limit_error(message: str) -> FilterError:
    """Return the error for a filter beyond a limit."""
    return FilterError(Diagnostic("F004", _TITLES["F004"], message, OPTION))


def unexpected_token(text: str, token: Token, expected: str) -> FilterError:
    """Return the error for a token that cannot stand where it does."""
    message = f"{expected} must stand here"
    if token.kind == "end":
        message += ", but the filter ends"
    return error_at("F001", text, (token.start, token.end), message, _GRAMMAR_HINTS)
