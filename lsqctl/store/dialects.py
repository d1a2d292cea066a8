"""What SQLite and PostgreSQL say differently: times, clock, JSON, floats, upserts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sqlalchemy import TIMESTAMP, Connection, Dialect, Table, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from lsqctl.run import JsonObject

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

# SQLite 3.40 has no 'subsec'; %f gives milliseconds, and the text sorts as the time does.
_SQLITE_FORMAT = "%Y-%m-%dT%H:%M:%f"


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC: ISO text without an offset on SQLite, ``timestamptz`` on PostgreSQL.

    Raises ValueError for a naive datetime: nobody can tell what it means.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the native type where there is one."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | str | None:
        """Turn an aware datetime into what the database keeps."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a stored time needs a time zone, got {value!r}")
        value = value.astimezone(UTC)
        if dialect.name == "postgresql":
            return value
        return value.replace(tzinfo=None).isoformat(timespec="milliseconds")

    def process_result_value(
        self, value: datetime | str | None, dialect: Dialect
    ) -> datetime | None:
        """Return an aware datetime in UTC."""
        if value is None:
            return None
        if isinstance(value, str):
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        return value.astimezone(UTC)


class now(FunctionElement[datetime]):
    """The database's clock; ``now(30.0)`` is so many seconds later."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: SQLCompiler, **options: object) -> str:
    shift = compiler.process(element.clauses, **options)
    later = f", printf('%+.3f seconds', {shift})" if shift else ""
    return f"strftime('{_SQLITE_FORMAT}', 'now'{later})"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: SQLCompiler, **options: object) -> str:
    # not now(): that is the transaction's start, stale once it has waited for a lock
    shift = compiler.process(element.clauses, **options)
    return f"(clock_timestamp() + make_interval(secs => {shift}))" if shift else "clock_timestamp()"


def to_json(value: Mapping[str, object]) -> str:
    """Return canonical JSON text: sorted keys, no blanks, NaN refused with ValueError."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def from_json(text: str | None) -> JsonObject:
    """Return what ``to_json`` was given; empty for None."""
    return json.loads(text) if text else {}


NUMBER, NAN, INF, NEGATIVE_INF = "number", "nan", "inf", "-inf"


def encode_float(value: float) -> tuple[float | None, str]:
    """Return (value, kind) as stored: SQLite turns NaN into NULL, so a word says what it was."""
    if math.isnan(value):
        return None, NAN
    if math.isinf(value):
        return None, INF if value > 0 else NEGATIVE_INF
    return float(value), NUMBER


def decode_float(value: float | None, kind: str) -> float:
    """Return the number that ``encode_float`` was given."""
    return float(kind) if value is None else value


def upsert(db: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert ``rows``, which share their columns; a row with a known primary key replaces it."""
    if not rows:
        return
    # the dialect in use is loaded already; naming both here would load both at each start
    dialect = import_module(f"sqlalchemy.dialects.{db.dialect.name}")
    statement = dialect.insert(table)
    clocked = any(hasattr(value, "compile") for value in rows[0].values())
    if clocked:  # SQL expressions cannot be parameters of a batch
        for row in rows:
            db.execute(_on_conflict_update(statement.values(**row), table, row))
    else:
        db.execute(_on_conflict_update(statement, table, rows[0]), [dict(row) for row in rows])


def _on_conflict_update(
    statement: sqlite.Insert | postgresql.Insert, table: Table, row: Mapping[str, object]
) -> sqlite.Insert | postgresql.Insert:
    keys = [column.name for column in table.primary_key]
    changed = {name: statement.excluded[name] for name in row if name not in keys}
    if not changed:
        return statement.on_conflict_do_nothing(index_elements=keys)
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)
