"""How a run changes its state: along TRANSITIONS, guarded by where it was, with an event written.

Statements are built once, with bound parameters: building one takes longer than SQLite takes to
execute it, and would be done under the write lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import ClauseElement, ColumnElement, Connection, bindparam, insert, select, update

from lsqctl.errors import IllegalTransition, LeaseLost, NotFound
from lsqctl.run import TRANSITIONS, EndReason, Lease, RunState
from lsqctl.store.dialects import now, to_json
from lsqctl.store.tables import AnyRow, attempts, events, runs

# The columns of a run that nobody owns.
NO_LEASE: dict[str, object] = {"fence": None, "worker_id": None, "lease_until": None}

# The conditions under which an attempt may write; ``lease_values`` fills them in.
LEASE_HELD: list[ColumnElement[bool]] = [
    runs.c.id == bindparam("lease_run"),
    runs.c.attempt == bindparam("lease_attempt"),
    runs.c.fence == bindparam("lease_fence"),
    runs.c.state == RunState.RUNNING,
]
_UPDATE_LEASED = update(runs).where(*LEASE_HELD)
_TRANSITION_LEASED = _UPDATE_LEASED.where(runs.c.state == bindparam("from_state"))
_TRANSITION = update(runs).where(
    runs.c.id == bindparam("run"), runs.c.state == bindparam("from_state")
)
_INSERT_EVENT = insert(events).values(at=now())
_INSERT_ATTEMPT = insert(attempts).values(started_at=now(), message="", moved_checkpoint=False)
_SELECT_FOR_UPDATE = (
    select(runs)
    .where(runs.c.id == bindparam("run"), runs.c.removed_at.is_(None))
    .with_for_update(key_share=True)
)
_END_ATTEMPT = (
    update(attempts)
    .where(
        attempts.c.run_id == bindparam("lease_run"), attempts.c.number == bindparam("lease_attempt")
    )
    .values(finished_at=now())
)


def transition(
    db: Connection,
    run_id: str,
    from_state: RunState,
    to_state: RunState,
    kind: str,
    *,
    lease: Lease | None = None,
    detail: str = "",
    **values: object,
) -> None:
    """Take a run from one state to another; ``kind`` and ``detail`` are the event's.

    ``values`` are for other columns of the run. With a ``lease`` an attempt does it, and zero rows
    raise LeaseLost; else they raise IllegalTransition.
    """
    if to_state not in TRANSITIONS[from_state]:
        raise IllegalTransition(f"run {run_id} is {from_state} and cannot become {to_state}")
    change = _TRANSITION_LEASED if lease else _TRANSITION
    if clocks := {key: value for key, value in values.items() if isinstance(value, ClauseElement)}:
        change = change.values(clocks)
    parameters = {key: value for key, value in values.items() if key not in clocks}
    parameters |= lease_values(lease) if lease else {"run": run_id}
    if db.execute(change, parameters | {"from_state": from_state, "state": to_state}).rowcount == 0:
        if lease:
            raise lease_lost_error(db, lease)
        raise IllegalTransition(f"run {run_id} is no longer {from_state}")
    record_event(
        db, run_id, kind, from_state=from_state, to_state=to_state, detail=detail, lease=lease
    )


def transition_all(
    db: Connection,
    changes: Sequence[Mapping[str, object]],
    kind: str,
    details: Sequence[str],
    **clocks: ClauseElement,
) -> None:
    """Take many runs from one state to another in two statements, with an event for each.

    A change has ``run``, ``from_state``, ``state`` and values for other columns, the same ones in
    all. Raises IllegalTransition when one is no longer where it was.
    """
    if not changes:
        return
    for change in changes:
        if change["state"] not in TRANSITIONS[RunState(str(change["from_state"]))]:
            raise IllegalTransition(
                f"run {change['run']} is {change['from_state']} and cannot become {change['state']}"
            )
    statement = _TRANSITION.values(clocks) if clocks else _TRANSITION
    if db.execute(statement, [dict(change) for change in changes]).rowcount != len(changes):
        raise IllegalTransition(f"a run of {len(changes)} is no longer where it was")
    events_of_runs = [
        _event_row(change["run"], kind, change["from_state"], change["state"], detail)
        for change, detail in zip(changes, details, strict=True)
    ]
    db.execute(_INSERT_EVENT, events_of_runs)


def record_event(
    db: Connection,
    run_id: str,
    kind: str,
    *,
    from_state: RunState | None = None,
    to_state: RunState | None = None,
    detail: str = "",
    lease: Lease | None = None,
) -> None:
    """Write an event of a run; with a ``lease`` it is that attempt's."""
    values = _event_row(run_id, kind, from_state, to_state, detail)
    if lease:
        values |= {"attempt": lease.attempt, "fence": lease.fence}
    db.execute(_INSERT_EVENT, values)


def _event_row(
    run_id: object, kind: str, from_state: object, to_state: object, detail: str
) -> dict[str, object]:
    """Return an event of no attempt."""
    return {
        "run_id": run_id,
        "kind": kind,
        "from_state": from_state,
        "to_state": to_state,
        "attempt": 0,
        "fence": "",
        "detail": detail,
    }


def begin_attempt(
    db: Connection, lease: Lease, worker_id: str, kind: str, environment: Mapping[str, object]
) -> None:
    """Add the attempt of a new lease, and the event ``kind`` with which its run began to run."""
    values = {
        "run_id": lease.run_id,
        "number": lease.attempt,
        "fence": lease.fence,
        "worker_id": worker_id,
        "environment": to_json(environment),
    }
    db.execute(_INSERT_ATTEMPT, values)
    record_event(
        db,
        lease.run_id,
        kind,
        from_state=RunState.QUEUED,
        to_state=RunState.RUNNING,
        detail=worker_id,
        lease=lease,
    )


def lease_values(lease: Lease) -> dict[str, object]:
    """Return the parameters of ``LEASE_HELD``."""
    return {
        "lease_run": lease.run_id,
        "lease_attempt": lease.attempt,
        "lease_fence": lease.fence,
    }


def require_lease(db: Connection, lease: Lease, **values: object) -> None:
    """Change the run's row as its owner, and so hold it until the commit.  Raises LeaseLost."""
    # without values the row is still written: on PostgreSQL that write is the lock
    if (
        db.execute(
            _UPDATE_LEASED, {**(values or {"fence": lease.fence}), **lease_values(lease)}
        ).rowcount
        == 0
    ):
        raise lease_lost_error(db, lease)


def lease_lost_error(db: Connection, lease: Lease) -> LeaseLost:
    """Return the error that tells an attempt who owns the run now."""
    row = db.execute(
        select(runs.c.state, runs.c.attempt).where(runs.c.id == lease.run_id)
    ).one_or_none()
    where = f"it is {row.state} at attempt {row.attempt}" if row else "it is gone"
    return LeaseLost(f"run {lease.run_id}: attempt {lease.attempt} has lost its lease; {where}")


def select_for_update(db: Connection, run_id: str) -> AnyRow:
    """Return a live run's row, held until the commit.  Raises NotFound."""
    row = db.execute(_SELECT_FOR_UPDATE, {"run": run_id}).one_or_none()
    if row is None:
        raise NotFound(f"no run has the id {run_id}")
    return row


def end_attempt(db: Connection, lease: Lease, reason: EndReason, message: str) -> None:
    """Close the attempt's own row."""
    db.execute(_END_ATTEMPT, {"reason": reason, "message": message, **lease_values(lease)})
