"""Apply a filter to one row, given its values; the same answer as the database's, to the letter."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from datetime import datetime

from lsqctl.filters.parsing import moment
from lsqctl.filters.tree import And, Comparison, Node, Not, Or, Value

Known = Value | datetime
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class Unknown(Exception):
    """Raised by a ``value_of`` for what cannot be known of its row."""


def holds(tree: Node, value_of: Callable[[str], Known]) -> bool | None:
    """Return whether a row passes, by the value of each column; None where nobody can tell.

    A missing value (None) equals null and nothing else: every other comparison with it is false,
    but for ``!=``, which is always the opposite of ``=``.
    """
    match tree:
        case Not(part=part):
            found = holds(part, value_of)
            return None if found is None else not found
        case And(parts=parts):
            return _least(holds(part, value_of) for part in parts)
        case Or(parts=parts):
            found = _least(holds(Not(part), value_of) for part in parts)
            return None if found is None else not found
        case Comparison():
            try:
                return _compare(tree, value_of(tree.column))
            except Unknown:
                return None


def folded(text: str) -> str:
    """Return ``text`` with A to Z in lower case, and no other letter changed.

    >>> folded("ResNet-Ä")
    'resnet-Ä'
    """
    return text.translate(_LOWER)


def _least(found: Iterable[bool | None]) -> bool | None:
    some = list(found)
    return False if False in some else None if None in some else True


def _compare(comparison: Comparison, value: Known) -> bool:
    match comparison.operator:
        case "!=":
            return not _equal(value, comparison.value)
        case "=" | "in":
            return any(_equal(value, wanted) for wanted in comparison.values)
        case "~":
            return value is not None and folded(str(comparison.value)) in folded(str(value))
        case "like":
            pattern = _pattern(folded(str(comparison.value)))
            return value is not None and bool(pattern.fullmatch(folded(str(value))))
    return value is not None and _ordered(comparison, value)


def _equal(value: Known, wanted: Value) -> bool:
    if value is None or wanted is None:
        return value is wanted
    return bool(value == _alike(wanted, value))


def _ordered(comparison: Comparison, value: Known) -> bool:
    wanted = _alike(comparison.value, value)
    less, more = value < wanted, value > wanted  # type: ignore[operator]  # parse checked kinds
    return {
        "<": less,
        ">": more,
        "<=": less or value == wanted,
        ">=": more or value == wanted,
    }[comparison.operator]


def _alike(wanted: Value, value: Known) -> Known:
    return moment(str(wanted)) if isinstance(value, datetime) else wanted


def _pattern(like: str) -> re.Pattern[str]:
    # fnmatch's patterns never backtrack far, whatever a filter holds
    parts = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return re.compile(fnmatch.translate("".join(parts.get(letter, letter) for letter in like)))
