"""Read the history of every run: six queries, whatever their number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, Select, case, func, select

from lsqctl.run import EndReason, RunState
from lsqctl.store.history import History, AttemptRow, MeasurementSpan
from lsqctl.store.rows import to_event
from lsqctl.store.tables import (
    attempts,
    checkpoints,
    events,
    metric_points,
    quantizer_stats,
    results,
    runs,
)


def load_histories(db: Connection) -> Iterator[History]:
    """Yield every run's history, the oldest run first."""
    events_by_run = _by_run(db, select(events).order_by(events.c.id))
    attempts_by_run = _by_run(db, select(*_ATTEMPT_COLUMNS).order_by(attempts.c.number))
    spans_by_kind = {kind: _by_run(db, _select_last_steps(table)) for kind, table in _MEASUREMENT_TABLES.items()}
    counts = _by_run(db, _select_result_counts())
    for row in db.execute(select(*_RUN_COLUMNS).order_by(runs.c.seq)):
        result_counts = counts[row.id][0] if row.id in counts else None
        yield History(
            run_id=row.id,
            state=RunState(row.state),
            reason=EndReason(row.reason) if row.reason else None,
            attempt=row.attempt,
            fence=row.fence,
            leased=row.lease_until is not None,
            events=[to_event(entry) for entry in events_by_run[row.id]],
            attempts=[_to_attempt_row(entry) for entry in attempts_by_run[row.id]],
            measurements=[
                MeasurementSpan(kind, entry.fence, entry.last_step)
                for kind, rows_by_run in spans_by_kind.items()
                for entry in rows_by_run[row.id]
            ],
            results=result_counts.results if result_counts else 0,
            headlines=result_counts.headlines if result_counts else 0,
        )


_MEASUREMENT_TABLES = {
    "metrics": metric_points,
    "quantizers' numbers": quantizer_stats,
    "checkpoints": checkpoints,
}
_RUN_COLUMNS = [runs.c[name] for name in "id state reason attempt fence lease_until".split()]
_ATTEMPT_COLUMNS = [
    attempts.c[name] for name in "run_id number fence finished_at reason resumed_step".split()
]


def _by_run(db: Connection, query: Select[Any]) -> defaultdict[str, list[Row[Any]]]:
    rows_by_run: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for row in db.execute(query):
        rows_by_run[row.run_id].append(row)
    return rows_by_run


def _select_last_steps(table: Any) -> Select[Any]:
    last = func.max(table.c.step).label("last_step")
    return select(table.c.run_id, table.c.fence, last).group_by(table.c.run_id, table.c.fence)


def _select_result_counts() -> Select[Any]:
    headlines = func.sum(case((results.c.headline, 1), else_=0)).label("headlines")
    total = func.count().label("results")
    return select(results.c.run_id, total, headlines).group_by(results.c.run_id)


def _to_attempt_row(row: Row[Any]) -> AttemptRow:
    return AttemptRow(
        number=row.number,
        fence=row.fence,
        finished=row.finished_at is not None,
        reason=EndReason(row.reason) if row.reason else None,
        resumed_step=-1 if row.resumed_step is None else row.resumed_step,
    )
