"""Read the history of every run: six queries, whatever their number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, Select, case, func, select

from lsqctl.run import EndReason, RunState
from lsqctl.store.history import History, Try, Written
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


def histories(db: Connection) -> Iterator[History]:
    """Yield every run's history, the oldest run first."""
    happened = _by_run(db, select(events).order_by(events.c.id))
    tries = _by_run(db, select(*_ATTEMPT).order_by(attempts.c.number))
    written = {kind: _by_run(db, _furthest(table)) for kind, table in _WRITTEN.items()}
    counts = _by_run(db, _results())
    for row in db.execute(select(*_RUN).order_by(runs.c.seq)):
        ended = counts[row.id][0] if row.id in counts else None
        yield History(
            run_id=row.id,
            state=RunState(row.state),
            reason=EndReason(row.reason) if row.reason else None,
            attempt=row.attempt,
            fence=row.fence,
            leased=row.lease_until is not None,
            events=[to_event(one) for one in happened[row.id]],
            tries=[_to_try(one) for one in tries[row.id]],
            written=[
                Written(kind, one.fence, one.last_step)
                for kind, found in written.items()
                for one in found[row.id]
            ],
            results=ended.results if ended else 0,
            headlines=ended.headlines if ended else 0,
        )


_WRITTEN = {
    "metrics": metric_points,
    "quantizers' numbers": quantizer_stats,
    "checkpoints": checkpoints,
}
_RUN = [runs.c[name] for name in "id state reason attempt fence lease_until".split()]
_ATTEMPT = [
    attempts.c[name] for name in "run_id number fence finished_at reason resumed_step".split()
]


def _by_run(db: Connection, query: Select[Any]) -> defaultdict[str, list[Row[Any]]]:
    found: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for row in db.execute(query):
        found[row.run_id].append(row)
    return found


def _furthest(table: Any) -> Select[Any]:
    last = func.max(table.c.step).label("last_step")
    return select(table.c.run_id, table.c.fence, last).group_by(table.c.run_id, table.c.fence)


def _results() -> Select[Any]:
    headlines = func.sum(case((results.c.headline, 1), else_=0)).label("headlines")
    total = func.count().label("results")
    return select(results.c.run_id, total, headlines).group_by(results.c.run_id)


def _to_try(row: Row[Any]) -> Try:
    return Try(
        number=row.number,
        fence=row.fence,
        finished=row.finished_at is not None,
        reason=EndReason(row.reason) if row.reason else None,
        resumed_step=-1 if row.resumed_step is None else row.resumed_step,
    )
