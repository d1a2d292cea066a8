"""How a run changes its state: along LEGAL, guarded by where it was, and with an event written.

Statements are built once, with bound parameters: building one takes longer than SQLite takes to
execute it, and would be done under the write lock.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ClauseElement, ColumnElement, Connection, bindparam, insert, select, update

from lsqctl.errors import IllegalTransition, LeaseLost, NotFound
from lsqctl.run import LEGAL, EndReason, Lease, RunState
from lsqctl.store.columns import now
from lsqctl.store.tables import attempts, events, runs

# What a run looks like when nobody owns it.
UNOWNED: dict[str, Any] = {"fence": None, "worker_id": None, "lease_until": None}

# The conditions under which an attempt may write; ``lease_values`` fills them in.
OWNED: list[ColumnElement[bool]] = [
    runs.c.id == bindparam("lease_run"),
    runs.c.attempt == bindparam("lease_attempt"),
    runs.c.fence == bindparam("lease_fence"),
    runs.c.state == RunState.RUNNING,
]
_OWN = update(runs).where(*OWNED)
_MOVE_OWNED = _OWN.where(runs.c.state == bindparam("source"))
_MOVE = update(runs).where(runs.c.id == bindparam("run"), runs.c.state == bindparam("source"))
_EVENT = insert(events).values(at=now())
_LOCKED = select(runs).where(runs.c.id == bindparam("run")).with_for_update(key_share=True)
_END_ATTEMPT = (
    update(attempts)
    .where(
        attempts.c.run_id == bindparam("lease_run"), attempts.c.number == bindparam("lease_attempt")
    )
    .values(finished_at=now())
)


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
    change = _MOVE_OWNED if lease else _MOVE
    if clocks := {key: value for key, value in options.items() if isinstance(value, ClauseElement)}:
        change = change.values(clocks)
    values = {key: value for key, value in options.items() if key not in clocks}
    guard = lease_values(lease) if lease else {"run": run_id}
    if db.execute(change, {**values, **guard, "source": source, "state": to}).rowcount == 0:
        raise lost(db, lease) if lease else IllegalTransition(f"run {run_id} is no longer {source}")
    record(db, run_id, kind, source=source, to=to, detail=detail, lease=lease)


def record(db: Connection, run_id: str, kind: str, **facts: Any) -> None:
    """Write an event. Facts: ``source`` and ``to`` states, ``detail``, ``lease``."""
    lease: Lease | None = facts.get("lease")
    values = {
        "run_id": run_id,
        "kind": kind,
        "from_state": facts.get("source"),
        "to_state": facts.get("to"),
        "attempt": lease.attempt if lease else 0,
        "fence": lease.fence if lease else "",
        "detail": facts.get("detail", ""),
    }
    db.execute(_EVENT, values)


def lease_values(lease: Lease) -> dict[str, Any]:
    """Return the parameters of ``OWNED``."""
    return {
        "lease_run": lease.run_id,
        "lease_attempt": lease.attempt,
        "lease_fence": lease.fence,
    }


def own(db: Connection, lease: Lease, **values: Any) -> None:
    """Change the run's row as its owner, and so hold it until the commit.  Raises LeaseLost."""
    # without values the row is still written: on PostgreSQL that write is the lock
    if (
        db.execute(_OWN, {**(values or {"fence": lease.fence}), **lease_values(lease)}).rowcount
        == 0
    ):
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
    row = db.execute(_LOCKED, {"run": run_id}).one_or_none()
    if row is None:
        raise NotFound(f"no run has the id {run_id}")
    return row


def end_attempt(db: Connection, lease: Lease, reason: EndReason, message: str) -> None:
    """Close the attempt's own row."""
    db.execute(_END_ATTEMPT, {"reason": reason, "message": message, **lease_values(lease)})
