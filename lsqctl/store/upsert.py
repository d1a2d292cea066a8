"""Insert rows, or update those whose key is there already: the one dialect-specific statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from sqlalchemy import Connection, Table


def upsert(db: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
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


def _on_conflict_update(statement: Any, table: Table, row: Mapping[str, Any]) -> Any:
    keys = [column.name for column in table.primary_key]
    changed = {name: statement.excluded[name] for name in row if name not in keys}
    if not changed:
        return statement.on_conflict_do_nothing(index_elements=keys)
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)
