"""Apply a filter to one row, given its values; the same answer as the database's, to the letter."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from datetime import datetime

from lsqctl.filters.expression import And, Comparison, Expression, Not, Or, Value
from lsqctl.filters.parser import parse_time

ColumnValue = Value | datetime
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class Undecidable(Exception):
    """Raised by a ``value_of`` for what cannot be known of its row."""


def matches(expression: Expression, value_of: Callable[[str], ColumnValue]) -> bool | None:
    """Return whether a row passes, by the value of each column; None where nobody can tell.

    A missing value (None) equals null and nothing else: every other comparison with it is false,
    but for ``!=``, which is always the opposite of ``=``.
    """
    match expression:
        case Not(part=part):
            result = matches(part, value_of)
            return None if result is None else not result
        case And(parts=parts):
            return _all_true(matches(part, value_of) for part in parts)
        case Or(parts=parts):
            result = _all_true(matches(Not(part), value_of) for part in parts)
            return None if result is None else not result
        case Comparison():
            try:
                return _compare(expression, value_of(expression.column))
            except Undecidable:
                return None


def fold_case(text: str) -> str:
    """Return ``text`` with A to Z in lower case, and no other letter changed.

    >>> fold_case("ResNet-Ä")
    'resnet-Ä'
    """
    return text.translate(_ASCII_LOWER)


def _all_true(results: Iterable[bool | None]) -> bool | None:
    answers = list(results)
    return False if False in answers else None if None in answers else True


def _compare(comparison: Comparison, value: ColumnValue) -> bool:
    match comparison.operator:
        case "!=":
            return not _equal(value, comparison.value)
        case "=" | "in":
            return any(_equal(value, expected) for expected in comparison.values)
        case "~":
            return value is not None and fold_case(str(comparison.value)) in fold_case(str(value))
        case "like":
            pattern = _like_pattern(fold_case(str(comparison.value)))
            return value is not None and bool(pattern.fullmatch(fold_case(str(value))))
    return value is not None and _compare_order(comparison, value)


def _equal(value: ColumnValue, expected: Value) -> bool:
    if value is None or expected is None:
        return value is expected
    return bool(value == _coerce(expected, value))


def _compare_order(comparison: Comparison, value: ColumnValue) -> bool:
    expected = _coerce(comparison.value, value)
    less, more = value < expected, value > expected  # type: ignore[operator]  # parse checked kinds
    return {
        "<": less,
        ">": more,
        "<=": less or value == expected,
        ">=": more or value == expected,
    }[comparison.operator]


def _coerce(expected: Value, value: ColumnValue) -> ColumnValue:
    return parse_time(str(expected)) if isinstance(value, datetime) else expected


def _like_pattern(like: str) -> re.Pattern[str]:
    # fnmatch's patterns never backtrack far, whatever a filter holds
    parts = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return re.compile(fnmatch.translate("".join(parts.get(letter, letter) for letter in like)))
