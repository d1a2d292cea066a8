"""What a person may do to a run: cancel it, hold it, try it again."""

from __future__ import annotations

from sqlalchemy import Connection, update

from lsqctl.errors import IllegalTransition
from lsqctl.run import UNFINISHED, EndReason, RunState
from lsqctl.store.base import Base
from lsqctl.store.columns import now
from lsqctl.store.database import reshapes
from lsqctl.store.family import DEAD, fail_children, hurry_parents, put_back
from lsqctl.store.states import locked, move, record
from lsqctl.store.tables import runs


class Controls(Base):
    """Commands by run id; each returns the run's state afterwards."""

    @reshapes
    def cancel(self, db: Connection, run_id: str) -> RunState:
        """Cancel a run: at once when nobody works on it, else at its worker's next renewal.

        Raises NotFound, and IllegalTransition for a finished run.
        """
        row = locked(db, run_id)
        state = RunState(row.state)
        _check_unfinished(run_id, state, "cancelled")
        if state is RunState.RUNNING:
            db.execute(update(runs).where(runs.c.id == run_id).values(cancel_requested=True))
            record(db, run_id, "cancel-requested")
            return state
        move(
            *(db, run_id, state, RunState.CANCELLED, "cancelled"),
            reason=EndReason.CANCELLED,
            finished_at=now(),
            not_before=None,
        )
        fail_children(db, run_id, row.name, "was cancelled")
        return RunState.CANCELLED

    @reshapes
    def retry(self, db: Connection, run_id: str, *, from_scratch: bool = False) -> RunState:
        """Put a failed or cancelled run back, with its failed parents and the children it failed.

        ``from_scratch`` forgets its metrics and checkpoints. Raises NotFound, and
        IllegalTransition for a run in any other state.
        """
        state = RunState(locked(db, run_id).state)
        if state not in DEAD:
            is_or_has = f"is {state}" if state in UNFINISHED else f"has {_ended(state)}"
            raise IllegalTransition(
                f"run {run_id} {is_or_has}; only a failed or cancelled run is tried again"
            )
        put_back(db, run_id, "retried", from_scratch=from_scratch)
        return RunState(locked(db, run_id).state)

    @reshapes
    def hold(self, db: Connection, *run_ids: str, held: bool = True) -> None:
        """Keep unfinished runs from being claimed, or let them go: all, or on an error none.

        A running one goes on, and is held when it is put back. Raises NotFound, and
        IllegalTransition for a finished run.
        """
        for run_id in run_ids:
            row = locked(db, run_id)
            _check_unfinished(run_id, RunState(row.state), "held" if held else "released")
            if row.held != held:
                db.execute(update(runs).where(runs.c.id == run_id).values(held=held))
                record(db, run_id, "held" if held else "unheld")

    @reshapes
    def prioritize(self, db: Connection, *run_ids: str, priority: int) -> None:
        """Let unfinished runs be claimed before those of a lower priority: all, or none.

        Unfinished parents get at least as much, or they would keep them waiting. Raises NotFound,
        and IllegalTransition for a finished run.
        """
        for run_id in run_ids:
            row = locked(db, run_id)
            _check_unfinished(run_id, RunState(row.state), "given a priority")
            if row.urgency != -priority:
                db.execute(update(runs).where(runs.c.id == run_id).values(urgency=-priority))
                record(db, run_id, "priority", detail=str(priority))
            hurry_parents(db, run_id, -priority)


def _check_unfinished(run_id: str, state: RunState, verb: str) -> None:
    if state not in UNFINISHED:
        raise IllegalTransition(f"run {run_id} has {_ended(state)} and cannot be {verb}")


def _ended(state: RunState) -> str:
    return "been cancelled" if state is RunState.CANCELLED else state.value
