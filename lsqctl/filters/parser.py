"""Parse a filter to its expression; a mistake is shown at its position, with the nearest name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from lsqctl.errors import Diagnostic, FilterError, Position
from lsqctl.filters.expression import (
    ORDERING,
    TEXTUAL,
    And,
    ColumnKind,
    Comparison,
    Expression,
    Not,
    Operator,
    Or,
    Value,
)
from lsqctl.text import closest_name

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


MAX_DEPTH = 20
MAX_COMPARISONS = 100
MAX_IN_VALUES = 100
ALIASES = {
    "top1": "top1_mean",
    "top5": "top5_mean",
    "name": "model",
    "bits": "weight_bits",
    "size": "size_bytes",
    "bops": "gbops",
    "n": "n_seeds",
    "w_bits": "weight_bits",
    "a_bits": "act_bits",
}
_OPERATORS: Mapping[str, Operator] = {
    "=": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=",
    "in": "in", "like": "like", "~": "~",
}  # fmt: skip


def parse(text: str, columns: Mapping[str, ColumnKind]) -> Expression:
    """Return a filter over ``columns``.  Raises FilterError, which shows the position.

    >>> parse("bits <= 4", {"bits": "number"})
    Comparison(column='bits', operator='<=', values=(4,), offset=0)
    """
    return _Parser(text, tokenize(text), columns).parse()


def parse_time(text: str) -> datetime:
    """Return the time that a text means, UTC unless it says otherwise.  Raises ValueError."""
    parsed = datetime.fromisoformat(text.strip())
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


@dataclass(slots=True)
class _Parser:
    text: str
    tokens: list[Token]
    columns: Mapping[str, ColumnKind]
    index: int = 0
    depth: int = 0
    column_tokens: list[Token] = field(default_factory=list)

    def parse(self) -> Expression:
        expression = self.disjunction()
        if self.token.kind != "end":
            raise unexpected_token(self.text, self.token, "`and`, `or` or the end")
        return expression

    @property
    def token(self) -> Token:
        return self.tokens[self.index]

    def advance(self) -> Token:
        token = self.token
        self.index += token.kind != "end"
        return token

    def accept(self, *keys: str) -> str:
        """Return which of these keywords or signs comes next, and take it; else nothing."""
        token = self.token
        if token.kind in ("keyword", "sign") and token.key in keys:
            self.advance()
            return token.key
        return ""

    def disjunction(self) -> Expression:
        parts = [self.conjunction()]
        while self.accept("or"):
            parts.append(self.conjunction())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def conjunction(self) -> Expression:
        parts = [self.term()]
        while self.accept("and"):
            parts.append(self.term())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def term(self) -> Expression:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise limit_error(f"`not` and parentheses go at most {MAX_DEPTH} deep")
        if self.accept("not"):
            expression: Expression = Not(self.term())
        elif self.accept("("):
            expression = self.disjunction()
            if not self.accept(")"):
                raise unexpected_token(self.text, self.token, "`and`, `or` or `)`")
        else:
            expression = self.comparison()
        self.depth -= 1
        return expression

    def comparison(self) -> Expression:
        name = self.advance()
        if name.kind != "name":
            raise unexpected_token(self.text, name, "a column")
        self.column_tokens.append(name)
        if len(self.column_tokens) > MAX_COMPARISONS:
            raise limit_error(f"a filter makes at most {MAX_COMPARISONS} comparisons")
        kind = self.column_kind(name)
        if kind == "bool" and self.at_end():
            return Comparison(name.key, "=", (True,), offset=name.start)
        if self.accept("is"):
            is_null = Comparison(
                name.key, "!=" if self.accept("not") else "=", (None,), offset=name.start
            )
            if not self.accept("null"):
                raise unexpected_token(self.text, self.token, "`null`")
            return is_null
        return self.operation(name, kind)

    def at_end(self) -> bool:
        return self.token.kind == "end" or self.token.key in ("and", "or", ")")

    def column_kind(self, name: Token) -> ColumnKind:
        if name.key in self.columns:
            return self.columns[name.key]
        alias = ALIASES.get(name.key.lower().rpartition(".")[2], "")
        guess = alias if alias in self.columns else closest_name(name.key, self.columns)
        hints = (f"did you mean `{guess}`?",) if guess else ()
        column_list = f"columns: {', '.join(self.columns)}"
        message = f"`{name.key}` is no column"
        raise error_at("F002", self.text, (name.start, name.end), message, (*hints, column_list))

    def operation(self, name: Token, kind: ColumnKind) -> Expression:
        operator_token = self.token
        negated = bool(self.accept("not"))
        key = self.accept("in", "like") if negated else self.accept(*_OPERATORS, "!~")
        if not key:
            expected = "`in` or `like`" if negated else "one of = != < <= > >= in like ~"
            raise unexpected_token(self.text, self.token, expected)
        operator = _OPERATORS["~" if key == "!~" else key]
        if kind != "text" and operator in TEXTUAL:
            message = f"`{operator}` is for texts, and `{name.key}` is a {kind}"
            raise error_at("F003", self.text, (operator_token.start, operator_token.end), message)
        values = self.value_list(kind) if operator == "in" else (self.value(kind, operator),)
        comparison = Comparison(name.key, operator, values, offset=name.start)
        return Not(comparison) if negated or key == "!~" else comparison

    def value_list(self, kind: ColumnKind) -> tuple[Value, ...]:
        if not self.accept("("):
            raise unexpected_token(self.text, self.token, "`(` and the values")
        values = [self.value(kind, "in")]
        while self.accept(","):
            values.append(self.value(kind, "in"))
            if len(values) > MAX_IN_VALUES:
                raise limit_error(f"`in` takes at most {MAX_IN_VALUES} values")
        if not self.accept(")"):
            raise unexpected_token(self.text, self.token, "`,` or `)`")
        return tuple(values)

    def value(self, kind: ColumnKind, operator: Operator) -> Value:
        token = self.advance()
        if token.key == "null" and token.kind == "keyword":
            if operator not in ("=", "!="):
                message = "null can be compared with = and != only"
                raise error_at("F003", self.text, (token.start, token.end), message)
            return None
        if token.key in ("true", "false"):
            literal: Value = token.key == "true"
        elif token.kind in ("text", "number"):
            literal = token.value
        else:
            raise self.not_a_value(token, kind)
        self.check_kind(token, literal, kind, operator)
        return literal

    def not_a_value(self, token: Token, kind: ColumnKind) -> Exception:
        if token.kind != "name":
            return unexpected_token(self.text, token, f"a {kind}")
        hints = (f"write '{token.key}' if a text is meant",)
        message = "a text stands in quotes, and columns are not compared with each other"
        return error_at("F001", self.text, (token.start, token.end), message, hints)

    def check_kind(self, token: Token, value: Value, kind: ColumnKind, operator: Operator) -> None:
        message = ""
        if kind == "time":
            message = _time_message(value)
        elif {str: "text", bool: "bool"}.get(type(value), "number") != kind:
            message = f"this column is a {kind}{_KIND_HINTS[kind]}"
        elif kind == "bool" and operator in ORDERING:
            message = "true and false have no order"
        if message:
            raise error_at("F003", self.text, (token.start, token.end), message)


_KIND_HINTS = {
    "number": ", written without quotes",
    "text": ", written in quotes",
    "bool": ": true or false",
}


def _time_message(value: Value) -> str:
    try:
        if isinstance(value, str):
            parse_time(value)
            return ""
    except ValueError:
        pass
    return "this column is a time: write '2026-01-31' or '2026-01-31T12:00'"
