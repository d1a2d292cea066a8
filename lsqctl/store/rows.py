"""From rows to values: what a list of runs selects, and how each row becomes a Run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from sqlalchemy import (
    Connection,
    ScalarSelect,
    and_,
    bindparam,
    case,
    func,
    select,
)

from lsqctl.run import EndReason, Lease, Run, RunEvent, RunState
from lsqctl.store.dialects import now
from lsqctl.store.tables import (
    AnyColumn,
    AnyRow,
    AnySelect,
    live_runs,
    metric_summaries,
    results,
    run_parents,
    sweep_cells,
)

_BATCH_SIZE = 1000

Item = TypeVar("Item")


def latest_top1() -> AnyColumn:
    """Return the expression for the Top-1 of a row of ``live_runs``, in percent.

    That of the headline result, as the board has it; until there is one, the newest measured.
    """
    headline = (
        select(100.0 * results.c.n_correct / results.c.n_total)
        .where(results.c.run_id == live_runs.c.id, results.c.headline)
        .limit(1)
        .correlate(live_runs)
        .scalar_subquery()
    )
    return func.coalesce(headline, _newest_top1())


def _newest_top1() -> ScalarSelect[object]:
    return (
        select(metric_summaries.c.last_value)
        .where(
            metric_summaries.c.run_id == live_runs.c.id,
            metric_summaries.c.name == "top1",
            metric_summaries.c.split != "train",
        )
        .order_by(metric_summaries.c.last_step.desc())
        .limit(1)
        .correlate(live_runs)
        .scalar_subquery()
    )


def select_runs() -> AnySelect:
    """Return a query for all that a Run shows; metric points are never touched."""
    sweep = (
        select(func.min(sweep_cells.c.sweep))
        .where(sweep_cells.c.run_id == live_runs.c.id)
        .scalar_subquery()
    )
    lease_expired = case(
        (and_(live_runs.c.state == RunState.RUNNING, live_runs.c.lease_until < now()), 1), else_=0
    )
    columns = [
        c for c in live_runs.c if c.name not in ("recipe", "provenance", "pinned_environment")
    ]
    return select(
        *columns,
        latest_top1().label("top1"),
        sweep.label("sweep"),
        lease_expired.label("lease_expired"),
    )


def to_run(row: AnyRow) -> Run:
    """Return the Run of one row of ``select_runs``."""
    return Run(
        id=row.id,
        name=row.name,
        state=RunState(row.state),
        seed=row.seed,
        recipe_sha256=row.recipe_sha256,
        run_sha256=row.run_sha256,
        created_at=row.created_at,
        reason=EndReason(row.reason) if row.reason else None,
        message=row.message,
        sweep=row.sweep,
        attempt=row.attempt,
        worker=row.worker_id,
        priority=row.priority,
        held=row.held,
        cancel_requested=row.cancel_requested,
        lease_expired=bool(row.lease_expired),
        started_at=row.started_at,
        finished_at=row.finished_at,
        step=row.step,
        total_steps=row.total_steps,
        epoch=row.epoch,
        epochs=row.epochs,
        top1=row.top1,
        gpus=row.gpus,
        time_limit_seconds=row.time_limit_seconds,
        note=row.note,
        origin=row.origin,
        user=row.user,
    )


def to_event(row: AnyRow) -> RunEvent:
    """Return the Event of a row of ``events``."""
    return RunEvent(
        id=row.id,
        run_id=row.run_id,
        kind=row.kind,
        from_state=RunState(row.from_state) if row.from_state else None,
        to_state=RunState(row.to_state) if row.to_state else None,
        attempt=row.attempt,
        fence=row.fence,
        detail=row.detail,
        at=row.at,
    )


_BY_IDS = select_runs().where(live_runs.c.id.in_(bindparam("ids", expanding=True)))
_IS_LIVE = select(1).where(live_runs.c.id == bindparam("run"))
_PARENTS = (
    select(run_parents.c.role, run_parents.c.parent_id)
    .join(live_runs, live_runs.c.id == run_parents.c.parent_id)
    .where(run_parents.c.run_id == bindparam("run"))
    .order_by(run_parents.c.role)
)


def load_runs(db: Connection, ids: Iterable[str]) -> dict[str, Run]:
    """Return the runs of these ids, by id."""
    return {
        row.id: to_run(row)
        for batch in batches(sorted(set(ids)))
        for row in db.execute(_BY_IDS, {"ids": batch})
    }


def is_live(db: Connection, run_id: str) -> bool:
    """Return whether there is such a run, and not in the trash."""
    return db.scalar(_IS_LIVE, {"run": run_id}) is not None


def load_parents(db: Connection, run_id: str) -> dict[str, str]:
    """Return the run id behind each role; a parent in the trash is left out."""
    return {row.role: row.parent_id for row in db.execute(_PARENTS, {"run": run_id})}


def to_lease(row: AnyRow) -> Lease:
    """Return the lease that a running run's row describes."""
    return Lease(row.id, row.attempt, row.fence)


def batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Yield the items in parts that fit into one statement."""
    for start in range(0, len(items), _BATCH_SIZE):
        yield items[start : start + _BATCH_SIZE]
