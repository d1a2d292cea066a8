"""Laws of the store as a whole: parts of a size to be known, and a claim that is one walk."""

from __future__ import annotations

import inspect

from sqlalchemy import Connection
from sqlalchemy.dialects import sqlite

from lsqctl.store import Store, open_store, queue
from lsqctl.store.database import StorePart

MOST_METHODS = 15


def test_neither_the_store_nor_a_part_of_it_has_more_than_fifteen_public_methods(
    store: Store,
) -> None:
    parts = [type(part) for part in vars(store).values() if isinstance(part, StorePart)]
    assert len(parts) == 11
    for part in (Store, *parts):
        names = [name for name, _ in inspect.getmembers(part) if not name.startswith("_")]
        assert len(names) <= MOST_METHODS, part


def test_a_claim_walks_one_index_and_sorts_nothing(sqlite_url: str) -> None:
    dialect = sqlite.dialect()  # type: ignore[no-untyped-call]
    words = {"most_gpus": 1, "least_gpus": 1}
    sql = str(
        queue._NEXT_RUN.element.params(words).compile(
            dialect=dialect, compile_kwargs={"literal_binds": True}
        )
    )

    def explain(db: Connection) -> list[str]:
        return [row[3] for row in db.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]

    with open_store(sqlite_url) as store:
        plan = store._database.read(explain)
    assert plan == ["SEARCH runs USING INDEX ix_runs_state_priority_seq (state=?)"]
