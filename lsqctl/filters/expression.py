"""A filter expression: comparisons, ``and``, ``or``, ``not``; printed, it parses to itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Value = str | int | float | bool | None
Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "like", "~"]
ColumnKind = Literal["text", "number", "bool", "time"]

ORDERING = ("<", "<=", ">", ">=")
TEXTUAL = ("like", "~")


@dataclass(frozen=True, slots=True)
class Comparison:
    """``column operator value``; of several ``values`` only with ``in``.

    ``like`` takes ``%`` for any letters and ``_`` for one; ``~`` says that the text holds the
    value; both take a and A as equal. ``offset`` is where it began in the text, for messages.
    """

    column: str
    operator: Operator
    values: tuple[Value, ...]
    offset: int = field(default=0, compare=False)

    @property
    def value(self) -> Value:
        """The first value; the only one but for ``in``."""
        return self.values[0]


@dataclass(frozen=True, slots=True)
class Not:
    """True where ``part`` is false."""

    part: Expression


@dataclass(frozen=True, slots=True)
class And:
    """True where each of two or more parts is true."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """True where one of two or more parts is true."""

    parts: tuple[Expression, ...]


Expression = Comparison | Not | And | Or


def columns_of(expression: Expression) -> frozenset[str]:
    """Return the columns that a filter looks at."""
    match expression:
        case Comparison(column=column):
            return frozenset({column})
        case Not(part=part):
            return columns_of(part)
        case And(parts=parts) | Or(parts=parts):
            return frozenset().union(*map(columns_of, parts))


def to_text(expression: Expression) -> str:
    """Return a filter as text; parsed again, it is the same expression.

    >>> to_text(And((Comparison("weight_bits", "<=", (4,)), Comparison("dataset", "=", ("it's",)))))
    "weight_bits <= 4 and dataset = 'it''s'"
    """
    match expression:
        case Comparison(column=column, operator="in", values=values):
            return f"{column} in ({', '.join(map(value_text, values))})"
        case Comparison(column=column, operator=operator, values=values):
            return f"{column} {operator} {value_text(values[0])}"
        case Not(part=part):
            return f"not {_parenthesized(part)}"
        case And(parts=parts):
            return " and ".join(map(_parenthesized, parts))
        case Or(parts=parts):
            return " or ".join(map(_parenthesized, parts))


def value_text(value: Value) -> str:
    """Return a value as it is written in a filter."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def _parenthesized(part: Expression) -> str:
    text = to_text(part)
    return f"({text})" if isinstance(part, And | Or) else text


def split_conjunction(
    expression: Expression | None, columns: Iterable[str]
) -> tuple[Expression | None, Expression | None]:
    """Return (what looks at ``columns`` only, the rest): ``and`` of both is ``expression``.

    Only at ``and`` can a filter be parted, so an ``or`` of both kinds belongs to the rest.
    """
    allowed = frozenset(columns)
    parts = (
        expression.parts
        if isinstance(expression, And)
        else ()
        if expression is None
        else (expression,)
    )
    pushed_down = [part for part in parts if columns_of(part) <= allowed]
    rest = [part for part in parts if not columns_of(part) <= allowed]
    return conjunction_of(pushed_down), conjunction_of(rest)


def narrowed(expression: Expression | None, condition: Expression) -> Expression:
    """Return what passes both a filter, if there is one, and a condition."""
    if expression is None:
        return condition
    parts = expression.parts if isinstance(expression, And) else (expression,)
    return And((*parts, condition))


def conjunction_of(parts: Iterable[Expression]) -> Expression | None:
    """Return the filter that all of these make together; None for none."""
    conjuncts = tuple(parts)
    return And(conjuncts) if len(conjuncts) > 1 else conjuncts[0] if conjuncts else None
