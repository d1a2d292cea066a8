"""Runs that depend on others: children follow parents, a sweep stops at its limit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, select, update

from lsqctl.run import ACTIVE_STATES, EndReason, JsonObject, RunState
from lsqctl.store.dialects import now
from lsqctl.store.rows import batches
from lsqctl.store.tables import (
    AnySelect,
    checkpoints,
    live_runs,
    metric_points,
    metric_summaries,
    quantizer_stats,
    run_parents,
    runs,
    sweep_cells,
    sweeps,
)
from lsqctl.store.transitions import NO_LEASE, record_event, select_for_update, transition

RETRYABLE = (RunState.FAILED, RunState.CANCELLED)
NOT_STARTED = (RunState.WAITING, RunState.QUEUED)
_RESET_VALUES: JsonObject = {
    **NO_LEASE,
    "reason": None,
    "message": "",
    "consecutive_failures": 0,
    "not_before": None,
    "cancel_requested": False,
    "finished_at": None,
}
_UNFINISHED = live_runs.c.state.in_(ACTIVE_STATES)
_RESET_TRAINING_VALUES = {
    "pinned_environment": None,
    "max_checkpoint_step": -1,
    "step": 0,
    "epoch": 0,
}

_CHILDREN = (
    select(live_runs.c.id)
    .join(run_parents, run_parents.c.run_id == live_runs.c.id)
    .where(
        run_parents.c.parent_id == bindparam("parent"),
        live_runs.c.state == bindparam("state_of_child"),
    )
    .distinct()
)


def _select_late_ancestors() -> AnySelect:
    """Select unfinished runs that ``run`` waits for, however far up, of priority < ``least``."""
    active = live_runs.c.state.in_(bindparam("active", expanding=True))
    parent_of = select(live_runs.c.id).join(run_parents, run_parents.c.parent_id == live_runs.c.id)
    ancestors = parent_of.where(run_parents.c.run_id == bindparam("run"), active).cte(
        "ancestors", recursive=True
    )
    further = parent_of.join(ancestors, ancestors.c.id == run_parents.c.run_id).where(active)
    ancestors = ancestors.union(further)  # not UNION ALL: each ancestor once
    return (
        select(runs.c.id)
        .where(runs.c.id.in_(select(ancestors.c.id)), runs.c.priority < bindparam("least"))
        .order_by(runs.c.seq)
        .with_for_update(key_share=True)
    )


_LATE_ANCESTORS = _select_late_ancestors()


class Remaining(NamedTuple):
    """Unfinished runs. ``runnable`` go on without a person; ``blocked`` wait for a ``held`` one."""

    runnable: int
    held: int
    blocked: int


def state_after_parents(states: Sequence[str]) -> RunState:
    """Return the state of a run that is to start, given the states of its parents."""
    ready = all(state == RunState.SUCCEEDED for state in states)
    return RunState.QUEUED if ready else RunState.WAITING


def queue_children(db: Connection, parent: str) -> None:
    """Queue the waiting children whose parents have now all succeeded."""
    for child in _children(db, parent, RunState.WAITING):
        if state_after_parents(_parent_states(db, child)) is RunState.QUEUED:
            transition(
                db, child, RunState.WAITING, RunState.QUEUED, "queued", detail=f"after {parent}"
            )


def fail_children(db: Connection, parent: str, name: str, verb: str) -> None:
    """Fail the waiting children of a run that failed or was cancelled, and theirs in turn."""
    failed = [(parent, name, verb)]
    while failed:
        parent, name, verb = failed.pop()
        message = f"its parent {name} ({parent}) {verb}"
        for child in _children(db, parent, RunState.WAITING):
            transition(
                db,
                child,
                RunState.WAITING,
                RunState.FAILED,
                "failed",
                detail=message,
                reason=EndReason.PARENT,
                message=message,
                finished_at=now(),
            )
            failed.append((child, select_for_update(db, child).name, "failed"))


def requeue(db: Connection, run_id: str, kind: str, *, from_scratch: bool = False) -> None:
    """Put a failed or cancelled run back, first its failed parents, then the children it failed."""
    pending = [(run_id, kind)]
    while pending:
        current, current_kind = pending[-1]
        dead = [id_ for id_, state in _parents(db, current).items() if state in RETRYABLE]
        if dead:
            pending += [(parent, "retried") for parent in dead]
            continue
        pending.pop()
        if from_scratch and current == run_id:
            delete_measurements(db, run_id)
            db.execute(update(runs).where(runs.c.id == run_id).values(_RESET_TRAINING_VALUES))
            from_scratch = False
        pending += [(child, "retried") for child in _requeue_one(db, current, current_kind)]


def _requeue_one(db: Connection, run_id: str, kind: str) -> list[str]:
    """Put one run back; return the children that it had failed and that can now go on."""
    row = select_for_update(db, run_id)
    if row.state not in RETRYABLE:
        return []  # a parent that was requeued has taken this run along
    to = state_after_parents(_parent_states(db, run_id))
    transition(db, run_id, RunState(row.state), to, kind, **_RESET_VALUES)
    # a child with another dead parent would wait for ever: it stays failed
    return [
        child
        for child in _children(db, run_id, RunState.FAILED, reason=EndReason.PARENT)
        if not set(_parent_states(db, child)) & set(RETRYABLE)
    ]


def raise_parent_priority(db: Connection, run_id: str, priority: int) -> None:
    """Let unfinished parents come no later than their child, and theirs in turn."""
    values = {"run": run_id, "least": priority, "active": sorted(ACTIVE_STATES)}
    for parent in db.scalars(_LATE_ANCESTORS, values).all():
        db.execute(update(runs).where(runs.c.id == parent).values(priority=priority))
        record_event(db, parent, "priority", detail=f"{priority}, for {run_id} waits for it")


def remaining(db: Connection) -> Remaining:
    """Count the unfinished runs, those apart that a person must let go first."""
    unfinished = db.execute(
        select(live_runs.c.id, live_runs.c.state, live_runs.c.held).where(_UNFINISHED)
    ).all()
    held = {row.id for row in unfinished if row.held and row.state in NOT_STARTED}
    blocked: set[str] = set()
    level = held
    while level:
        level = _waiting_children(db, level) - held - blocked
        blocked |= level
    return Remaining(len(unfinished) - len(held) - len(blocked), len(held), len(blocked))


def delete_measurements(db: Connection, run_id: str) -> None:
    """Delete what a run measured and its checkpoints, for it begins again."""
    for table in (metric_points, metric_summaries, quantizer_stats, checkpoints):
        db.execute(delete(table).where(table.c.run_id == run_id))


def blocked_without_parent(db: Connection) -> list[str]:
    """Return the ids of waiting runs that have no unfinished parent: there should be none."""
    unfinished = (
        select(run_parents.c.run_id)
        .join(live_runs, live_runs.c.id == run_parents.c.parent_id)
        .where(live_runs.c.state.in_(ACTIVE_STATES))
    )
    query = select(live_runs.c.id).where(
        live_runs.c.state == RunState.WAITING, live_runs.c.id.not_in(unfinished.scalar_subquery())
    )
    return list(db.scalars(query))


def started_before_parents(db: Connection) -> list[str]:
    """Return the ids of runs that are ready, at work or done, though a parent of them is not."""
    parents, started_states = (
        live_runs.alias(),
        (RunState.QUEUED, RunState.RUNNING, RunState.SUCCEEDED),
    )
    query = (
        select(live_runs.c.id)
        .join(run_parents, run_parents.c.run_id == live_runs.c.id)
        .join(parents, parents.c.id == run_parents.c.parent_id)
        .where(live_runs.c.state.in_(started_states), parents.c.state != RunState.SUCCEEDED)
        .distinct()
    )
    return list(db.scalars(query))


def _parents(db: Connection, run_id: str) -> Mapping[str, str]:
    query = (
        select(live_runs.c.id, live_runs.c.state)
        .join(run_parents, run_parents.c.parent_id == live_runs.c.id)
        .where(run_parents.c.run_id == run_id)
    )
    return {row.id: row.state for row in db.execute(query)}


def _parent_states(db: Connection, run_id: str) -> list[str]:
    return list(_parents(db, run_id).values())


def _children(
    db: Connection, run_id: str, state: RunState, *, reason: EndReason | None = None
) -> list[str]:
    query = _CHILDREN.where(live_runs.c.reason == reason) if reason else _CHILDREN
    return list(db.scalars(query, {"parent": run_id, "state_of_child": state}))


def _waiting_children(db: Connection, parent_ids: set[str]) -> set[str]:
    query = (
        select(live_runs.c.id)
        .join(run_parents, run_parents.c.run_id == live_runs.c.id)
        .where(live_runs.c.state == RunState.WAITING)
    )
    return {
        run_id
        for batch in batches(sorted(parent_ids))
        for run_id in db.scalars(query.where(run_parents.c.parent_id.in_(batch)))
    }


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
        .select_from(sweep_cells.join(live_runs, live_runs.c.id == sweep_cells.c.run_id))
        .where(sweep_cells.c.sweep == sweep, live_runs.c.state == RunState.FAILED)
        .where(live_runs.c.reason != EndReason.PARENT)
    )
    return int(db.execute(query).scalar_one())


def _stop_sweep(db: Connection, sweep: str, message: str) -> None:
    """Cancel what has not started, children before parents, and ask the rest to stop."""
    unfinished = (
        select(live_runs.c.id, live_runs.c.name, live_runs.c.state)
        .join(sweep_cells, sweep_cells.c.run_id == live_runs.c.id)
        .where(sweep_cells.c.sweep == sweep, live_runs.c.state.in_(ACTIVE_STATES))
        .order_by(live_runs.c.seq.desc())
        .with_for_update(of=live_runs, key_share=True)  # no worker may claim one meanwhile
    )
    for row in db.execute(unfinished).all():
        if row.state == RunState.RUNNING:
            change = {"cancel_requested": True, "message": message}
            db.execute(update(runs).where(runs.c.id == row.id).values(change))
            record_event(db, row.id, "cancel-requested", detail=message)
            continue
        transition(
            db,
            row.id,
            RunState(row.state),
            RunState.CANCELLED,
            "cancelled",
            detail=message,
            reason=EndReason.CANCELLED,
            message=message,
            finished_at=now(),
            not_before=None,
        )
        fail_children(db, row.id, row.name, "was cancelled")
