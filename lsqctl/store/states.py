"""How a run changes its state: along LEGAL, guarded by where it was, and with an event written."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, insert, select, update

from lsqctl.errors import IllegalTransition, LeaseLost, NotFound
from lsqctl.run import LEGAL, EndReason, Lease, RunState
from lsqctl.store.columns import now
from lsqctl.store.tables import attempts, events, runs

# What a run looks like when nobody owns it.
UNOWNED: dict[str, Any] = {"fence": None, "worker_id": None, "lease_until": None}


def move(
    db: Connection, run_id: str, source: RunState, to: RunState, kind: str, **options: Any
) -> None:
    """Take a run from ``source`` to ``to``; ``kind`` names the event.

    Options: ``detail`` for the event, ``lease`` when an attempt does it (zero rows raise
    LeaseLost), and values for other columns of the run. Raises IllegalTransition.
    """
    lease: Lease | None = options.pop("lease", None)
    detail: str = options.pop("detail", "")
    if to not in LEGAL[source]:
        raise IllegalTransition(f"run {run_id} is {source} and cannot become {to}")
    guard = owned(lease) if lease else [runs.c.id == run_id]
    change = update(runs).where(*guard, runs.c.state == source).values(state=to, **options)
    if db.execute(change).rowcount == 0:
        raise lost(db, lease) if lease else IllegalTransition(f"run {run_id} is no longer {source}")
    record(db, run_id, kind, source=source, to=to, detail=detail, lease=lease)


def record(db: Connection, run_id: str, kind: str, **facts: Any) -> None:
    """Write an event. Facts: ``source`` and ``to`` states, ``detail``, ``lease``."""
    lease: Lease | None = facts.get("lease")
    db.execute(
        insert(events).values(
            run_id=run_id,
            kind=kind,
            from_state=facts.get("source"),
            to_state=facts.get("to"),
            attempt=lease.attempt if lease else 0,
            fence=lease.fence if lease else "",
            detail=facts.get("detail", ""),
            at=now(),
        )
    )


def owned(lease: Lease) -> list[ColumnElement[bool]]:
    """Return the conditions under which an attempt may write."""
    return [
        runs.c.id == lease.run_id,
        runs.c.attempt == lease.attempt,
        runs.c.fence == lease.fence,
        runs.c.state == RunState.RUNNING,
    ]


def own(db: Connection, lease: Lease, **values: Any) -> None:
    """Change the run's row as its owner, and so hold it until the commit.  Raises LeaseLost."""
    # without values the row is still written: on PostgreSQL that write is the lock
    change = update(runs).where(*owned(lease)).values(**(values or {"fence": lease.fence}))
    if db.execute(change).rowcount == 0:
        raise lost(db, lease)


def lost(db: Connection, lease: Lease) -> LeaseLost:
    """Return the error that tells an attempt who owns the run now."""
    row = db.execute(
        select(runs.c.state, runs.c.attempt).where(runs.c.id == lease.run_id)
    ).one_or_none()
    where = f"it is {row.state} at attempt {row.attempt}" if row else "it is gone"
    return LeaseLost(f"run {lease.run_id}: attempt {lease.attempt} has lost its lease; {where}")


def locked(db: Connection, run_id: str) -> Any:
    """Return a run's row, held until the commit.  Raises NotFound."""
    query = select(runs).where(runs.c.id == run_id).with_for_update(key_share=True)
    row = db.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"no run has the id {run_id}")
    return row


def end_attempt(db: Connection, lease: Lease, reason: EndReason, message: str) -> None:
    """Close the attempt's own row."""
    db.execute(
        update(attempts)
        .where(attempts.c.run_id == lease.run_id, attempts.c.number == lease.attempt)
        .values(finished_at=now(), reason=reason, message=message)
    )
