"""Runs that depend on others: children follow parents, a sweep stops at its limit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, case, delete, func, select, update

from lsqctl.run import ACTIVE_STATES, RECORDED, EndReason, JsonObject, RunState
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
from lsqctl.store.transitions import NO_LEASE, record_event, transition, transition_all

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

_VERBS = {RunState.FAILED: "failed", RunState.CANCELLED: "was cancelled"}
_PARENT_STATES = (
    select(run_parents.c.run_id, live_runs.c.id, live_runs.c.state)
    .join(live_runs, live_runs.c.id == run_parents.c.parent_id)
    .where(run_parents.c.run_id.in_(bindparam("runs", expanding=True)))
)


def _select_ready_children() -> AnySelect:
    """Select the waiting children of ``parent`` that no unfinished or failed parent keeps back."""
    others, parents = run_parents.alias(), live_runs.alias()
    kept_back = (
        select(others.c.run_id)
        .join(parents, parents.c.id == others.c.parent_id)
        .where(others.c.run_id == live_runs.c.id, parents.c.state != RunState.SUCCEEDED)
        .exists()
    )
    return (
        select(live_runs.c.id)
        .join(run_parents, run_parents.c.run_id == live_runs.c.id)
        .where(run_parents.c.parent_id == bindparam("parent"), ~kept_back)
        .where(live_runs.c.state == RunState.WAITING)
        .distinct()
    )


def _select_waiting_descendants() -> AnySelect:
    """Select what waits for ``run``, however far down, with each parent on the way there."""
    columns = live_runs.c.id, live_runs.c.name, live_runs.c.seq, run_parents.c.parent_id
    child_of = select(*columns).join(run_parents, run_parents.c.run_id == live_runs.c.id)
    waiting = child_of.where(live_runs.c.state == RunState.WAITING)
    below = waiting.where(run_parents.c.parent_id == bindparam("run")).cte("below", recursive=True)
    below = below.union(waiting.join(below, below.c.id == run_parents.c.parent_id))
    return select(below).order_by(below.c.seq)  # a parent is older than its children


def _select_dead_family() -> AnySelect:
    """Select ``runs`` that are dead, their dead ancestors, and what ended for one of all these.

    ``above`` is 1 for the first two. What ended for its parent is dead, for the reason ``parent``.
    """
    columns = live_runs.c.id, live_runs.c.state, live_runs.c.seq
    dead = select(*columns).where(live_runs.c.state.in_(RETRYABLE))
    above = dead.where(live_runs.c.id.in_(bindparam("runs", expanding=True))).cte(
        "above", recursive=True
    )
    parent_of = dead.join(run_parents, run_parents.c.parent_id == live_runs.c.id)
    above = above.union(parent_of.join(above, above.c.id == run_parents.c.run_id))
    family = select(above).cte("family", recursive=True)
    child_of = dead.join(run_parents, run_parents.c.run_id == live_runs.c.id)
    ended = child_of.where(live_runs.c.reason == EndReason.PARENT)
    family = family.union(ended.join(family, family.c.id == run_parents.c.parent_id))
    is_above = case((family.c.id.in_(select(above.c.id)), 1), else_=0)
    return select(family.c.id, family.c.state, is_above.label("above")).order_by(family.c.seq)


_READY_CHILDREN = _select_ready_children()
_WAITING_DESCENDANTS = _select_waiting_descendants()
_DEAD_FAMILY = _select_dead_family()


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
    children = db.scalars(_READY_CHILDREN, {"parent": parent}).all()
    changes = [
        {"run": child, "from_state": RunState.WAITING, "state": RunState.QUEUED}
        for child in children
    ]
    transition_all(db, changes, "queued", [f"after {parent}"] * len(children))


def end_children(db: Connection, run_id: str, name: str, to: RunState) -> None:
    """End what waits for a run that failed or was cancelled, as that run ended, and so on down.

    The message of each names that run, which is the cause, and the parent in between.
    """
    cause = f"{name} ({run_id}) {_VERBS[to]}"
    messages: dict[str, str] = {}
    names: dict[str, str] = {}
    for row in db.execute(_WAITING_DESCENDANTS, {"run": run_id}):
        parent = f"{names.get(row.parent_id)} ({row.parent_id})"
        direct = row.parent_id == run_id
        between = f"its parent {cause}" if direct else f"{cause}, and its parent {parent} with it"
        if direct or row.id not in messages:
            messages[row.id] = between
        names[row.id] = row.name
    changes = [
        {
            "run": child,
            "from_state": RunState.WAITING,
            "state": to,
            "reason": EndReason.PARENT,
            "message": message,
        }
        for child, message in messages.items()
    ]
    transition_all(db, changes, to.value, list(messages.values()), finished_at=now())


def requeue(db: Connection, run_ids: Sequence[str], *, from_scratch: bool = False) -> None:
    """Requeue failed or cancelled runs, with their dead parents and the children they ended.

    However many there are, the statements are few: nobody else writes meanwhile. A child with
    another dead parent would wait for ever: it stays as it is. ``from_scratch`` forgets what the
    runs named have measured, but nothing of the others.
    """
    if from_scratch:
        for run_id in run_ids:
            delete_measurements(db, run_id)
            db.execute(update(runs).where(runs.c.id == run_id).values(_RESET_TRAINING_VALUES))
    for batch in batches(run_ids):
        dead = db.execute(_DEAD_FAMILY, {"runs": list(batch)}).all()
        parents = _parent_states_of(db, [row.id for row in dead])
        requeued = _requeueable({row.id: bool(row.above) for row in dead}, parents)
        changes = [
            {
                "run": row.id,
                "from_state": row.state,
                "state": state_after_parents(list(parents.get(row.id, {}).values())),
                **_RESET_VALUES,
            }
            for row in dead
            if row.id in requeued
        ]
        transition_all(db, changes, "retried", [""] * len(changes))


def _requeueable(dead: Mapping[str, bool], parents: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Return the runs that can go on. ``dead`` says of each whether it is named or above one.

    Those can; a child can whose dead parents can. ``parents`` has the states of each one's.
    """
    children: dict[str, list[str]] = {}
    for run_id in dead:
        for parent in parents.get(run_id, {}):
            children.setdefault(parent, []).append(run_id)
    requeued: set[str] = set()
    pending = [run_id for run_id, above in dead.items() if above]
    while pending:
        run_id = pending.pop()
        if run_id in requeued:
            continue
        requeued.add(run_id)
        for child in children.get(run_id, ()):
            states = parents[child].items()
            if all(id_ in requeued or state not in RETRYABLE for id_, state in states):
                pending.append(child)
    return requeued


def _parent_states_of(db: Connection, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the states of the parents of each of these runs, by the parent's id."""
    parents: dict[str, dict[str, str]] = {}
    for batch in batches(run_ids):
        for row in db.execute(_PARENT_STATES, {"runs": list(batch)}):
            parents.setdefault(row.run_id, {})[row.id] = row.state
    return parents


def raise_parent_priority(db: Connection, run_id: str, priority: int) -> None:
    """Let unfinished parents come no later than their child, and theirs in turn."""
    values = {"run": run_id, "least": priority, "active": sorted(ACTIVE_STATES)}
    for parent in db.scalars(_LATE_ANCESTORS, values).all():
        db.execute(update(runs).where(runs.c.id == parent).values(priority=priority))
        record_event(db, parent, "priority", detail=f"{priority}, for {run_id} waits for it")


def remaining(db: Connection) -> Remaining:
    """Count the unfinished runs, those apart that a person must let go first.

    What a loop of somebody's own trains is nothing to wait for.
    """
    unfinished = db.execute(
        select(live_runs.c.id, live_runs.c.state, live_runs.c.held).where(
            _UNFINISHED, live_runs.c.origin != RECORDED
        )
    ).all()
    held = {row.id for row in unfinished if row.held and row.state in NOT_STARTED}
    blocked: set[str] = set()
    level = held
    while level:
        level = (_waiting_children(db, level) | _waiting_at_rungs(db, level)) - held - blocked
        blocked |= level
    return Remaining(len(unfinished) - len(held) - len(blocked), len(held), len(blocked))


def delete_measurements(db: Connection, run_id: str) -> None:
    """Delete what a run measured and its checkpoints, for it begins again."""
    for table in (metric_points, metric_summaries, quantizer_stats, checkpoints):
        db.execute(delete(table).where(table.c.run_id == run_id))


def blocked_without_parent(db: Connection) -> list[str]:
    """Return the ids of waiting runs that wait for no parent and at no rung: should be none."""
    unfinished = (
        select(run_parents.c.run_id)
        .join(live_runs, live_runs.c.id == run_parents.c.parent_id)
        .where(live_runs.c.state.in_(ACTIVE_STATES))
    )
    query = select(live_runs.c.id).where(
        live_runs.c.state == RunState.WAITING,
        live_runs.c.id.not_in(unfinished.scalar_subquery()),
        func.coalesce(live_runs.c.reason, "") != EndReason.RUNG,
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


def _waiting_at_rungs(db: Connection, run_ids: set[str]) -> set[str]:
    """Return the runs that wait at a rung of a sweep that one of these is a cell of."""
    cells = sweep_cells.join(live_runs, live_runs.c.id == sweep_cells.c.run_id)
    paused = (live_runs.c.state == RunState.WAITING, live_runs.c.reason == EndReason.RUNG)
    found: set[str] = set()
    for batch in batches(sorted(run_ids)):
        sweeps_of = select(sweep_cells.c.sweep).where(sweep_cells.c.run_id.in_(batch))
        query = select(live_runs.c.id).select_from(cells)
        found |= set(db.scalars(query.where(*paused, sweep_cells.c.sweep.in_(sweeps_of))))
    return found


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
        end_children(db, row.id, row.name, RunState.CANCELLED)
