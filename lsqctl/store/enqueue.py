"""Add runs by portions, each all or nothing: parents first, never the same run twice unasked."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, case, func, insert, select, update

from lsqctl.errors import NotFound, UsageError
from lsqctl.failpoint import failpoint
from lsqctl.run import (
    ACTIVE_STATES,
    ID_ALPHABET,
    ID_LENGTH,
    EndReason,
    EnqueuedRun,
    EnqueueOutcome,
    IfExists,
    NewRun,
    RunState,
)
from lsqctl.store.database import StorePart, exclusive_tx, read_tx
from lsqctl.store.dependencies import (
    RETRYABLE,
    raise_parent_priority,
    requeue,
    set_failure_limit,
    state_after_parents,
)
from lsqctl.store.dialects import now, to_json, upsert
from lsqctl.store.rows import batches, load_runs
from lsqctl.store.tables import (
    AnyRow,
    live_runs,
    run_parents,
    run_tags,
    runs,
    sweep_cells,
    sweeps,
)
from lsqctl.store.transitions import record_event

# What a cell keeps of its NewRun beside its own columns, to be enqueued again from.
RESUBMIT_FIELDS = (
    *("name", "recipe", "recipe_sha256", "provenance", "parents", "epochs"),
    *("priority", "gpus", "time_limit_seconds", "user", "partial"),
)

_SELECT_IDENTITY = select(live_runs.c.id, live_runs.c.name, live_runs.c.state)


PORTION_SIZE = 100  # runs; about half a second under the write lock


class Enqueues(StorePart):
    """Submitting."""

    def enqueue(
        self,
        new: Sequence[NewRun],
        *,
        if_exists: IfExists = "skip",
        max_failures: int | None = None,
    ) -> list[EnqueuedRun]:
        """Add runs and return what became of each, in the same order.

        Up to PORTION_SIZE runs are added in one transaction. More are checked as a whole, then
        added in portions of that size, for nobody else writes meanwhile: what is cut short leaves
        whole portions, parents before children, and adding the same again adds the rest.

        ``skip`` leaves an unfinished or succeeded run of the same ``run_sha256`` alone and puts a
        failed or cancelled one back; ``rerun`` always adds, and a child in ``new`` waits for the
        parent that was added; ``error`` raises UsageError. ``max_failures`` holds for the sweeps in
        ``new`` from now on (0: none), None leaves it. Raises NotFound for a parent that is neither
        stored nor earlier in ``new``; then nothing is added.
        """
        retryable = self._check_submission(new, if_exists)
        added: dict[str, str] = {}
        enqueued: list[EnqueuedRun] = []
        for start in range(0, len(new), PORTION_SIZE):
            portion, added = self._enqueue_portion(
                new[start : start + PORTION_SIZE],
                if_exists=if_exists,
                max_failures=max_failures,
                retryable=retryable,
                added=added,
            )
            enqueued += portion
        return enqueued

    @read_tx
    def _check_submission(
        self, db: Connection, new: Sequence[NewRun], if_exists: IfExists
    ) -> set[str]:
        return check_submission(db, new, if_exists)

    @exclusive_tx
    def _enqueue_portion(
        self,
        db: Connection,
        new: Sequence[NewRun],
        *,
        if_exists: IfExists,
        max_failures: int | None,
        retryable: set[str],
        added: Mapping[str, str],
    ) -> tuple[list[EnqueuedRun], dict[str, str]]:
        """Add a portion; return what became of it, and all that was added so far."""
        submission = Submission(db, if_exists, retryable, dict(added))
        outcomes = [submission.add(new_run) for new_run in new]
        if max_failures is not None:
            set_failure_limit(db, {new_run.sweep for new_run in new if new_run.sweep}, max_failures)
        failpoint("submit.before-commit")
        return as_enqueued(db, outcomes), submission.added


def check_submission(db: Connection, new: Sequence[NewRun], if_exists: IfExists) -> set[str]:
    """Return which of the runs are there and retryable; raise what would stop a portion."""
    earlier: set[str] = set()
    for new_run in new:
        for role, run_sha256 in new_run.parents.items():
            if run_sha256 not in earlier and canonical_run(db, run_sha256) is None:
                raise _no_parent_error(new_run, role, run_sha256)
        if if_exists == "error" and new_run.explicit and new_run.run_sha256 not in earlier:
            existing = canonical_run(db, new_run.run_sha256)
            if existing is not None:
                raise _exists_error(new_run, existing)
        earlier.add(new_run.run_sha256)
    return retryable_run_ids(db, [new_run.run_sha256 for new_run in new])


def as_enqueued(
    db: Connection, outcomes: Sequence[tuple[str, EnqueueOutcome | None]]
) -> list[EnqueuedRun]:
    """Return runs and what became of them; an outcome of None is the state that the run has."""
    loaded = load_runs(db, [run_id for run_id, _ in outcomes])
    return [
        EnqueuedRun(loaded[id_], outcome or EnqueueOutcome(loaded[id_].state))
        for id_, outcome in outcomes
    ]


def canonical_run(db: Connection, run_sha256: str) -> AnyRow | None:
    """Return a hash's canonical run: succeeded before unfinished before the rest."""
    rank = case(
        (live_runs.c.state == RunState.SUCCEEDED, 0),
        (live_runs.c.state.in_(ACTIVE_STATES), 1),
        else_=2,
    )
    query = _SELECT_IDENTITY.where(live_runs.c.run_sha256 == run_sha256).order_by(
        rank, live_runs.c.seq.desc()
    )
    return db.execute(query.limit(1)).one_or_none()


def retryable_run_ids(db: Connection, hashes: Sequence[str]) -> set[str]:
    """Return the ids of the failed and cancelled runs of these ``run_sha256``.

    One that a rung has stopped is not among them: it ended as it was meant to.
    """
    return {
        run_id
        for batch in batches(hashes)
        for run_id in db.scalars(
            select(live_runs.c.id).where(
                live_runs.c.run_sha256.in_(batch),
                live_runs.c.state.in_(RETRYABLE),
                func.coalesce(live_runs.c.reason, "") != EndReason.STOPPED,
            )
        )
    }


@dataclass
class Submission:
    """One submission on its way in: which runs were retryable before it, and which it has added."""

    db: Connection
    if_exists: IfExists
    retryable: set[str]
    added: dict[str, str] = field(default_factory=dict)  # run_sha256 to id
    # the priority that all unfinished runs above a run have at least, as far as it is known
    _ancestors_priority: dict[str, int] = field(default_factory=dict)

    def add(self, new: NewRun) -> tuple[str, EnqueueOutcome | None]:
        """Return the run's id and what became of it; None says: added, read its state."""
        if_exists = self.if_exists if new.explicit else "skip"
        existing = None if if_exists == "rerun" else self._canonical_run(new.run_sha256)
        if new.run_sha256 in self.added:  # a cell of two sweeps of this submission
            run_id, outcome = self.added[new.run_sha256], EnqueueOutcome.EXISTS
        elif existing is None:
            run_id, outcome = self._insert(new), None
        elif if_exists == "error":
            raise _exists_error(new, existing)
        else:
            run_id, outcome = existing.id, self._reuse(existing, new)
        _record_cell(self.db, new, run_id, outcome)
        upsert(self.db, run_tags, [{"run_id": run_id, "tag": tag} for tag in new.tags])
        return run_id, outcome

    def _canonical_run(self, run_sha256: str) -> AnyRow | None:
        """Return the run of a hash that counts here: what this submission added comes first."""
        if run_id := self.added.get(run_sha256):
            query = _SELECT_IDENTITY.where(live_runs.c.id == run_id)
            return self.db.execute(query).one_or_none()
        return canonical_run(self.db, run_sha256)

    def _reuse(self, existing: AnyRow, new: NewRun) -> EnqueueOutcome:
        if existing.id not in self.retryable:
            return EnqueueOutcome.EXISTS
        if existing.state in RETRYABLE:  # else its parent was requeued and took it along
            requeue(self.db, [existing.id])
        if new.held:
            self.db.execute(update(runs).where(runs.c.id == existing.id).values(held=True))
            record_event(self.db, existing.id, "held")
        return EnqueueOutcome.RETRIED

    def _insert(self, new: NewRun) -> str:
        db = self.db
        parents = {role: self._parent(new, role, sha) for role, sha in new.parents.items()}
        state = state_after_parents([row.state for row in parents.values()])
        run_id = _unused_id(db)
        values = _initial_values(new) | {"id": run_id, "state": state, "created_at": now()}
        db.execute(insert(runs).values(values))
        for role, row in parents.items():
            db.execute(insert(run_parents).values(run_id=run_id, role=role, parent_id=row.id))
        self._raise_ancestors(run_id, new.priority, [row.id for row in parents.values()])
        record_event(db, run_id, "enqueued", to_state=state)
        self.added[new.run_sha256] = run_id
        return run_id

    def _raise_ancestors(self, run_id: str, priority: int, parents: Sequence[str]) -> None:
        """Raise the priority of what a new run waits for; of a chain, each run is visited once."""
        raised = self._ancestors_priority
        if any(raised.get(parent, priority - 1) < priority for parent in parents):
            raise_parent_priority(self.db, run_id, priority)
        raised[run_id] = priority

    def _parent(self, new: NewRun, role: str, run_sha256: str) -> AnyRow:
        row = self._canonical_run(run_sha256)
        if row is None:
            raise _no_parent_error(new, role, run_sha256)
        if row.state in RETRYABLE:
            requeue(self.db, [row.id])
            row = self._canonical_run(run_sha256)
            assert row is not None
        return row


def _exists_error(new: NewRun, existing: AnyRow) -> UsageError:
    return UsageError(
        f"`{new.name}` seed {new.seed} exists already as run {existing.id} ({existing.state}); "
        "leave it (skip) or add another (rerun)"
    )


def _no_parent_error(new: NewRun, role: str, run_sha256: str) -> NotFound:
    return NotFound(
        f"`{new.name}` needs a run for {role} that is not in the store "
        f"(hash {run_sha256[:12]}); submit that one first"
    )


def _initial_values(new: NewRun) -> dict[str, object]:
    return {
        "name": new.name,
        "message": "",
        "seed": new.seed,
        "recipe_sha256": new.recipe_sha256,
        "run_sha256": new.run_sha256,
        "code_commit": str(new.provenance.get("code_commit") or ""),
        "code_dirty": new.provenance.get("code_dirty"),
        "priority": new.priority,
        "held": new.held,
        "cancel_requested": False,
        "attempt": 0,
        "renewals": 0,
        "consecutive_failures": 0,
        "max_checkpoint_step": -1,
        "step": 0,
        "total_steps": 0,
        "epoch": 0,
        "epochs": new.epochs,
        "gpus": new.gpus,
        "time_limit_seconds": new.time_limit_seconds,
        "origin": new.origin,
        "user": new.user,
        "partial": new.partial,
        "recipe": to_json(new.recipe),
        "provenance": to_json(new.provenance),
    }


def _unused_id(db: Connection) -> str:
    while True:
        run_id = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))
        if db.scalar(select(1).where(runs.c.id == run_id)) is None:
            return run_id


def _record_cell(db: Connection, new: NewRun, run_id: str, outcome: EnqueueOutcome | None) -> None:
    """Let the sweep's cell point to its run; the label may have changed since it was made."""
    if new.sweep is None:
        return
    if db.scalar(select(1).where(sweeps.c.name == new.sweep)) is None:
        db.execute(insert(sweeps).values(name=new.sweep, created_at=now()))
    if outcome is EnqueueOutcome.EXISTS:
        run_id = _current_run_id(db, new) or run_id
    row = {
        "sweep": new.sweep,
        "run_sha256": new.run_sha256,
        "cell": new.cell,
        "seed": new.seed,
        "run_id": run_id,
        "submission": to_json({name: getattr(new, name) for name in RESUBMIT_FIELDS}),
    }
    upsert(db, sweep_cells, [row])


def _current_run_id(db: Connection, new: NewRun) -> str | None:
    """Return the run that the cell has, if it lives: a rerun stays the cell's run."""
    query = (
        select(live_runs.c.id)
        .join(sweep_cells, sweep_cells.c.run_id == live_runs.c.id)
        .where(sweep_cells.c.sweep == new.sweep, sweep_cells.c.run_sha256 == new.run_sha256)
        .where(live_runs.c.state.not_in(RETRYABLE))
    )
    run_id: str | None = db.scalar(query)
    return run_id
