"""What a person may do to a run: cancel it, hold it, try it again."""

from __future__ import annotations

from sqlalchemy import Connection, update

from lsqctl.errors import IllegalTransition
from lsqctl.run import ACTIVE_STATES, EndReason, RunState
from lsqctl.store.base import StorePart
from lsqctl.store.columns import now
from lsqctl.store.database import exclusive_tx
from lsqctl.store.family import RETRYABLE, fail_children, raise_parent_priority, requeue
from lsqctl.store.states import select_for_update, transition, record_event
from lsqctl.store.tables import runs


class RunCommands(StorePart):
    """Commands by run id; each returns the run's state afterwards."""

    @exclusive_tx
    def cancel(self, db: Connection, run_id: str) -> RunState:
        """Cancel a run: at once when nobody works on it, else at its worker's next renewal.

        Raises NotFound, and IllegalTransition for a finished run.
        """
        row = select_for_update(db, run_id)
        state = RunState(row.state)
        _check_unfinished(run_id, state, "cancelled")
        if state is RunState.RUNNING:
            db.execute(update(runs).where(runs.c.id == run_id).values(cancel_requested=True))
            record_event(db, run_id, "cancel-requested")
            return state
        transition(
            *(db, run_id, state, RunState.CANCELLED, "cancelled"),
            reason=EndReason.CANCELLED,
            finished_at=now(),
            not_before=None,
        )
        fail_children(db, run_id, row.name, "was cancelled")
        return RunState.CANCELLED

    @exclusive_tx
    def retry(self, db: Connection, run_id: str, *, from_scratch: bool = False) -> RunState:
        """Put a failed or cancelled run back, with its failed parents and the children it failed.

        ``from_scratch`` forgets its metrics and checkpoints. Raises NotFound, and
        IllegalTransition for a run in any other state.
        """
        state = RunState(select_for_update(db, run_id).state)
        if state not in RETRYABLE:
            is_or_has = f"is {state}" if state in ACTIVE_STATES else f"has {_ended(state)}"
            raise IllegalTransition(
                f"run {run_id} {is_or_has}; only a failed or cancelled run is tried again"
            )
        requeue(db, run_id, "retried", from_scratch=from_scratch)
        return RunState(select_for_update(db, run_id).state)

    @exclusive_tx
    def hold(self, db: Connection, *run_ids: str, held: bool = True) -> None:
        """Keep unfinished runs from being claimed, or let them go: all, or on an error none.

        A running one goes on, and is held when it is put back. Raises NotFound, and
        IllegalTransition for a finished run.
        """
        for run_id in run_ids:
            row = select_for_update(db, run_id)
            _check_unfinished(run_id, RunState(row.state), "held" if held else "released")
            if row.held != held:
                db.execute(update(runs).where(runs.c.id == run_id).values(held=held))
                record_event(db, run_id, "held" if held else "unheld")

    @exclusive_tx
    def prioritize(self, db: Connection, *run_ids: str, priority: int) -> None:
        """Let unfinished runs be claimed before those of a lower priority: all, or none.

        Unfinished parents get at least as much, or they would keep them waiting. Raises NotFound,
        and IllegalTransition for a finished run.
        """
        for run_id in run_ids:
            row = select_for_update(db, run_id)
            _check_unfinished(run_id, RunState(row.state), "given a priority")
            if row.urgency != -priority:
                db.execute(update(runs).where(runs.c.id == run_id).values(urgency=-priority))
                record_event(db, run_id, "priority", detail=str(priority))
            raise_parent_priority(db, run_id, -priority)


def _check_unfinished(run_id: str, state: RunState, verb: str) -> None:
    if state not in ACTIVE_STATES:
        raise IllegalTransition(f"run {run_id} has {_ended(state)} and cannot be {verb}")


def _ended(state: RunState) -> str:
    return "been cancelled" if state is RunState.CANCELLED else state.value
