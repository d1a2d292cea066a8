"""Stop a sweep once as many of its cells have failed as were allowed.

A cell counts while it stands failed of its own: one whose parent failed never ran, and one that was
put back gets another chance.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, func, select, update

from lsqctl.run import ACTIVE_STATES, EndReason, RunState
from lsqctl.store.columns import now
from lsqctl.store.family import fail_children
from lsqctl.store.states import transition, record_event
from lsqctl.store.tables import runs, sweep_cells, sweeps


def set_failure_limit(db: Connection, names: Iterable[str], max_failures: int) -> None:
    """Let so many failed cells stop each of these sweeps; 0 lifts the limit."""
    limit = {"max_failures": max_failures or None}
    db.execute(update(sweeps).where(sweeps.c.name.in_(list(names))).values(limit))


def stop_failing_sweeps(db: Connection, run_id: str) -> None:
    """Stop each sweep in which this run's failure is one too many."""
    query = (
        select(sweeps.c.name, sweeps.c.max_failures)
        .join(sweep_cells, sweep_cells.c.sweep == sweeps.c.name)
        .where(sweep_cells.c.run_id == run_id, sweeps.c.max_failures.is_not(None))
        .order_by(sweeps.c.name)
    )
    for name, limit in db.execute(query).all():
        failed = _count_failed_cells(db, name)
        if failed >= limit:
            cells = "cell" if failed == 1 else "cells"
            _stop_sweep(db, name, f"sweep {name}: {failed} {cells} failed (--max-failures {limit})")


def _count_failed_cells(db: Connection, sweep: str) -> int:
    query = (
        select(func.count())
        .select_from(sweep_cells.join(runs, runs.c.id == sweep_cells.c.run_id))
        .where(sweep_cells.c.sweep == sweep, runs.c.state == RunState.FAILED)
        .where(runs.c.reason != EndReason.PARENT)
    )
    return int(db.execute(query).scalar_one())


def _stop_sweep(db: Connection, sweep: str, message: str) -> None:
    """Cancel what has not started, children before parents, and ask the rest to stop."""
    unfinished = (
        select(runs.c.id, runs.c.name, runs.c.state)
        .join(sweep_cells, sweep_cells.c.run_id == runs.c.id)
        .where(sweep_cells.c.sweep == sweep, runs.c.state.in_(ACTIVE_STATES))
        .order_by(runs.c.seq.desc())
        .with_for_update(of=runs, key_share=True)  # no worker may claim one meanwhile
    )
    for row in db.execute(unfinished).all():
        if row.state == RunState.RUNNING:
            change = {"cancel_requested": True, "message": message}
            db.execute(update(runs).where(runs.c.id == row.id).values(change))
            record_event(db, row.id, "cancel-requested", detail=message)
            continue
        transition(
            *(db, row.id, RunState(row.state), RunState.CANCELLED, "cancelled"),
            detail=message,
            reason=EndReason.CANCELLED,
            message=message,
            finished_at=now(),
            not_before=None,
        )
        fail_children(db, row.id, row.name, "was cancelled")
