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

from lsqctl.filters.column_kinds import RESULT_COLUMN_KINDS, RUN_COLUMN_KINDS
from lsqctl.filters.evaluate import fold_case
from lsqctl.filters.expression import And, ColumnKind, Comparison, Expression, Not, Or, Value
from lsqctl.filters.parser import parse_time
from lsqctl.store.dialects import UtcDateTime
from lsqctl.store.rows import latest_top1
from lsqctl.store.tables import live_runs, results

Columns = Mapping[str, ColumnElement[Any]]

_GIGA = literal(1e9, Double)

_RUN_FIELDS = ("seed", "recipe_sha256", "code_commit", "code_dirty", "created_at")
_COMPUTED_COLUMNS: Columns = {
    "run_id": live_runs.c.id,
    "model": live_runs.c.name,
    "weight_bits": results.c.weight_bits,
    "act_bits": results.c.act_bits,
    "gmacs": results.c.macs / _GIGA,
    "gbops": results.c.bops / _GIGA,
    **{name: live_runs.c[name] for name in _RUN_FIELDS},
}
RESULT_COLUMNS: Columns = {
    name: _COMPUTED_COLUMNS[name] if name in _COMPUTED_COLUMNS else results.c[name]
    for name in RESULT_COLUMN_KINDS
}
RUN_COLUMNS: Columns = {
    name: live_runs.c[name]
    for name in RUN_COLUMN_KINDS
    if name not in ("top1", "worker", "priority")
} | {"top1": latest_top1(), "worker": live_runs.c.worker_id, "priority": live_runs.c.priority}


def condition(
    tree: Expression, columns: Columns, kinds: Mapping[str, ColumnKind], dialect: str
) -> ColumnElement[bool]:
    """Return the WHERE of a filter, true or false and never NULL, as ``filters.evaluate`` says."""
    match tree:
        case Not(part=part):
            return not_(condition(part, columns, kinds, dialect))
        case And(parts=parts):
            return and_(*(condition(part, columns, kinds, dialect) for part in parts))
        case Or(parts=parts):
            return or_(*(condition(part, columns, kinds, dialect) for part in parts))
        case Comparison(column=name):
            kind = kinds[name]
            column = _comparable_text(columns[name], dialect) if kind == "text" else columns[name]
            return _comparison(tree, column, kind)


def _comparable_text(column: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    """Return a text that sorts and folds by code points; an empty one is missing."""
    nullable = func.nullif(column, literal("", Text))
    return nullable.collate("C") if dialect == "postgresql" else nullable


def _comparison(
    comparison: Comparison, column: ColumnElement[Any], kind: ColumnKind
) -> ColumnElement[bool]:
    if comparison.value is None and comparison.operator != "in":
        return column.is_(null()) if comparison.operator == "=" else column.is_not(null())
    values = [_bound(value, kind) for value in comparison.values]
    match comparison.operator:
        case "=" | "in":
            return _false_if_null(or_(*(column == value for value in values)))
        case "!=":
            return not_(_false_if_null(column == values[0]))
        case "~":
            return _false_if_null(
                func.lower(column).contains(fold_case(str(comparison.value)), autoescape=True)
            )
        case "like":
            pattern = fold_case(str(comparison.value)).replace("\\", "\\\\")
            return _false_if_null(func.lower(column).like(pattern, escape="\\"))
    return _false_if_null(column.op(comparison.operator, is_comparison=True)(values[0]))


def _false_if_null(expression: ColumnElement[Any]) -> ColumnElement[bool]:
    return case((expression, literal(1)), else_=literal(0)) == literal(1)


def _bound(value: Value, kind: ColumnKind) -> ColumnElement[Any]:
    if kind == "time":
        return literal(parse_time(str(value)), UtcDateTime())
    if isinstance(value, bool):
        return literal(value, Boolean)
    if isinstance(value, str):
        return literal(value, Text)
    return literal(value, BigInteger if isinstance(value, int) else Double)
