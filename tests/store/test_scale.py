"""With thousands of runs of a hundred points each, lists and boards read what they need."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from lsqctl.events import Metric
from lsqctl.run import RunState
from lsqctl.services.board import build_board
from lsqctl.services.watch import read_queue_status
from lsqctl.store import Store, open_store
from lsqctl.store.queue_overview import MAX_POINTS as POINTS_SHOWN
from tests.conftest import FULL
from tests.store.samples import identity, new, result, submit, take

RUNS, POINTS = 10_000 if FULL else 2_000, 100


def copies(db: sqlite3.Connection, table: str, changes: dict[str, str]) -> str:
    """SQL that inserts a copy of the table's row for each number n, some columns changed."""
    names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    wanted = ", ".join(changes.get(name, f"t.{name}") for name in names)
    return f"INSERT INTO {table} SELECT {wanted} FROM n, (SELECT * FROM {table} LIMIT 1) t"


def fill(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA synchronous=OFF")
        db.execute("PRAGMA journal_mode=MEMORY")
        count = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {})"
        db.execute(f"CREATE TEMP TABLE n AS {count.format(RUNS - 2)} SELECT i FROM c")
        identifier = "printf('%08d', n.i)"
        succeeded = {"seq": "n.i + 10", "id": identifier, "run_sha256": "printf('s%d', n.i)"}
        state = "CASE WHEN n.i % 10 = 0 THEN 'queued' ELSE 'succeeded' END"
        db.execute(copies(db, "runs", succeeded | {"state": state}))
        for table in ("results", "metric_summaries"):
            db.execute(copies(db, table, {"run_id": identifier}))
        db.execute(
            f"INSERT INTO metric_points {count.format(POINTS)} "
            "SELECT n.id, 'top1', 'test', c.i, 1.0, 'number', '' FROM runs n, c WHERE n.seq > 2"
        )


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path = tmp_path_factory.mktemp("big") / "lsqctl.db"
    with open_store(f"sqlite:///{path}") as store:
        store.workers.register(identity("w1"))
        submit(store, new("a"), new("b"))
        claim = take(store)
        store.metrics.log(claim.lease, [Metric("top1", "test", 1, 1.0)])
        store.queue.finish(claim.lease, result())
        fill(path)
        yield store


def plans(store: Store, call: Callable[[], Any]) -> list[str]:
    """The query plan of every statement that the call executes."""
    seen: list[tuple[str, Any]] = []
    engine = store._database.engine

    def watch(_c: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", watch)
    try:
        call()
    finally:
        event.remove(engine, "before_cursor_execute", watch)
    with closing(sqlite3.connect(str(store._database.url.database))) as db:
        return [
            row[3]
            for statement, parameters in seen
            if statement.split()[0] in ("SELECT", "UPDATE", "WITH", "INSERT", "DELETE")
            for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]


def test_lists_and_boards_touch_no_metric_point(big: Store) -> None:
    for call in (
        big.runs.list,
        big.results.board_rows,
        lambda: big.runs.list(limit=20),
        big.runs.counts,
    ):
        assert not any("metric_points" in step for step in plans(big, call))
    assert len(big.runs.list()) == RUNS
    assert len(big.results.board_rows()) > 0.8 * RUNS
    assert len(big.runs.list(limit=20)) == 20


def test_looking_and_housekeeping_read_metric_points_by_key_or_not_at_all(big: Store) -> None:
    claim = take(big)
    big.metrics.resume_at(claim.lease, None)
    big.metrics.log(claim.lease, [Metric("top1", "test", step, 1.0) for step in range(100)])
    calls: dict[str, Callable[[], Any]] = {
        "watch": lambda: read_queue_status(big),
        "watch --sweep": lambda: read_queue_status(big, sweep="s"),
        "wait": lambda: big.runs.statuses(["00000001", "00000002"]),
        "wait --sweep": lambda: big.sweeps.run_ids("s"),
        "leaderboard": lambda: build_board(big),
        "doctor": lambda: (big.queue.health(timedelta(days=1)), big.checkpoints.directories()),
        "gc": lambda: big.checkpoints.retention(["00000001", "00000002"]),
        "ls --tag": lambda: (big.runs.list(tag="paper", limit=50), big.runs.tags(["00000001"])),
    }
    try:
        for name, call in calls.items():
            points = [step for step in plans(big, call) if "metric_points" in step]
            assert all("USING PRIMARY KEY (run_id=? AND name=? AND split=?)" in p for p in points)
            assert bool(points) == (name == "watch"), name
        assert len(read_queue_status(big).overview.running[0].top1) == POINTS_SHOWN  # of a hundred
    finally:
        big.queue.release(claim.lease)


def test_the_newest_runs_are_found_without_sorting_all(big: Store) -> None:
    steps = plans(big, lambda: big.runs.list(limit=20))
    assert "SCAN runs" in steps  # backwards along the key, stopped by the limit
    assert not any("ORDER BY" in step for step in steps[:1])


def test_every_lookup_of_the_queue_uses_an_index(big: Store) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: big.queue.release(take(big).lease),
        big.queue.reap,
        lambda: big.runs.list(recipe_sha256="a"),
        lambda: big.runs.list(name="b"),
        lambda: big.runs.list(states={RunState.RUNNING}),
        lambda: big.runs.events("00000001"),
        lambda: big.metrics.points("00000001"),
        lambda: big.runs.detail("00000001"),
        lambda: submit(big, new("c", parents=["a"], sweep="s")),
        lambda: big.runs.cancel(big.runs.list(name="c")[0].id),
    ]
    for call in calls:
        steps = plans(big, call)
        assert steps
        tables = [step for step in steps if step.startswith("SCAN") and "CONSTANT" not in step]
        made = {"SCAN first", "SCAN ancestors", "SCAN below"}  # by the query itself
        assert set(tables) <= made, tables
