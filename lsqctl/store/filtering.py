"""SQL of a filter: columns from a fixed table, and every value a bound parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Double,
    Text,
    and_,
    case,
    func,
    literal,
    not_,
    null,
    or_,
)

from lsqctl.filters.judging import folded
from lsqctl.filters.names import OF_RESULTS, OF_RUNS
from lsqctl.filters.parsing import moment
from lsqctl.filters.tree import And, Comparison, Kind, Node, Not, Or, Value
from lsqctl.store.columns import UtcDateTime
from lsqctl.store.rows import latest_top1
from lsqctl.store.tables import results, runs

Columns = Mapping[str, ColumnElement[Any]]

_GIGA = literal(1e9, Double)

_OF_THE_RUN = ("seed", "recipe_sha256", "code_commit", "code_dirty", "created_at")
_RENAMED: Columns = {
    "run_id": runs.c.id,
    "model": runs.c.name,
    "w_bits": results.c.weight_bits,
    "a_bits": results.c.act_bits,
    "gmacs": results.c.macs / _GIGA,
    "gbops": results.c.bops / _GIGA,
    **{name: runs.c[name] for name in _OF_THE_RUN},
}
RESULT_COLUMNS: Columns = {
    name: _RENAMED[name] if name in _RENAMED else results.c[name] for name in OF_RESULTS
}
RUN_COLUMNS: Columns = {
    name: runs.c[name] for name in OF_RUNS if name not in ("top1", "worker", "priority")
} | {"top1": latest_top1(), "worker": runs.c.worker_id, "priority": -runs.c.urgency}


def condition(
    tree: Node, columns: Columns, kinds: Mapping[str, Kind], dialect: str
) -> ColumnElement[bool]:
    """Return the WHERE of a filter, true or false and never NULL, as ``filters.judging`` says."""
    match tree:
        case Not(part=part):
            return not_(condition(part, columns, kinds, dialect))
        case And(parts=parts):
            return and_(*(condition(part, columns, kinds, dialect) for part in parts))
        case Or(parts=parts):
            return or_(*(condition(part, columns, kinds, dialect) for part in parts))
        case Comparison(column=name):
            kind = kinds[name]
            column = _plain(columns[name], dialect) if kind == "text" else columns[name]
            return _comparison(tree, column, kind)


def _plain(column: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    """Return a text that sorts and folds by code points; an empty one is missing."""
    found = func.nullif(column, literal("", Text))
    return found.collate("C") if dialect == "postgresql" else found


def _comparison(one: Comparison, column: ColumnElement[Any], kind: Kind) -> ColumnElement[bool]:
    if one.value is None and one.operator != "in":
        return column.is_(null()) if one.operator == "=" else column.is_not(null())
    values = [_bound(value, kind) for value in one.values]
    match one.operator:
        case "=" | "in":
            return _certain(or_(*(column == value for value in values)))
        case "!=":
            return not_(_certain(column == values[0]))
        case "~":
            return _certain(func.lower(column).contains(folded(str(one.value)), autoescape=True))
        case "like":
            pattern = folded(str(one.value)).replace("\\", "\\\\")
            return _certain(func.lower(column).like(pattern, escape="\\"))
    return _certain(column.op(one.operator, is_comparison=True)(values[0]))


def _certain(found: ColumnElement[Any]) -> ColumnElement[bool]:
    return case((found, literal(1)), else_=literal(0)) == literal(1)


def _bound(value: Value, kind: Kind) -> ColumnElement[Any]:
    if kind == "time":
        return literal(moment(str(value)), UtcDateTime())
    if isinstance(value, bool):
        return literal(value, Boolean)
    if isinstance(value, str):
        return literal(value, Text)
    return literal(value, BigInteger if isinstance(value, int) else Double)
