"""Add runs: all or nothing, never the same run twice unless asked, parents before children."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, case, insert, select, update

from lsqctl.errors import NotFound, UsageError
from lsqctl.failpoint import failpoint
from lsqctl.run import UNFINISHED, Enqueued, IfExists, NewRun, Outcome, RunState
from lsqctl.store.base import Base
from lsqctl.store.columns import now, to_json
from lsqctl.store.database import reshapes
from lsqctl.store.family import DEAD, hurry_parents, put_back, state_after_parents
from lsqctl.store.limits import limit_failures
from lsqctl.store.rows import chunks, load_runs
from lsqctl.store.states import record
from lsqctl.store.tables import run_parents, runs, sweep_cells, sweeps
from lsqctl.store.upsert import upsert

# No vowels, so that no id is a word; no 0, 1 or l, which are taken for O, I and 1.
ALPHABET = "23456789bcdfghjkmnpqrstvwxz"
ID_LENGTH = 8

# What a cell keeps of its NewRun beside its own columns, to be enqueued again from.
SUBMITTED = (
    *("name", "recipe", "recipe_sha256", "snapshot", "parents", "epochs"),
    *("priority", "gpus", "time_limit_seconds"),
)

_IDENTITY = select(runs.c.id, runs.c.name, runs.c.state)


class Enqueues(Base):
    """Submitting."""

    @reshapes
    def enqueue(
        self,
        db: Connection,
        new: Sequence[NewRun],
        *,
        if_exists: IfExists = "skip",
        max_failures: int | None = None,
    ) -> list[Enqueued]:
        """Add runs in one transaction and return what became of each, in the same order.

        ``skip`` leaves an unfinished or succeeded run of the same ``run_sha256`` alone and puts a
        failed or cancelled one back; ``rerun`` always adds, and a child in ``new`` waits for the
        parent that was added; ``error`` raises UsageError. ``max_failures`` holds for the sweeps in
        ``new`` from now on (0: none), None leaves it. Raises NotFound for a parent that is neither
        stored nor earlier in ``new``; then nothing is added.
        """
        adding = Adding(db, if_exists, dead_runs(db, [each.run_sha256 for each in new]))
        done = [adding.add(each) for each in new]
        if max_failures is not None:
            limit_failures(db, {each.sweep for each in new if each.sweep}, max_failures)
        failpoint("submit.before-commit")
        return told(db, done)


def told(db: Connection, done: Sequence[tuple[str, Outcome | None]]) -> list[Enqueued]:
    """Return runs and what became of them; an outcome of None is the state that the run has."""
    loaded = load_runs(db, [run_id for run_id, _ in done])
    return [Enqueued(loaded[id_], what or Outcome(loaded[id_].state)) for id_, what in done]


def newest_of(db: Connection, run_sha256: str) -> Any | None:
    """Return the run that stands for a hash: succeeded before unfinished before the rest."""
    rank = case((runs.c.state == RunState.SUCCEEDED, 0), (runs.c.state.in_(UNFINISHED), 1), else_=2)
    query = _IDENTITY.where(runs.c.run_sha256 == run_sha256).order_by(rank, runs.c.seq.desc())
    return db.execute(query.limit(1)).one_or_none()


def dead_runs(db: Connection, hashes: Sequence[str]) -> set[str]:
    """Return the ids of the failed and cancelled runs of these ``run_sha256``."""
    return {
        run_id
        for some in chunks(hashes)
        for run_id in db.scalars(
            select(runs.c.id).where(runs.c.run_sha256.in_(some), runs.c.state.in_(DEAD))
        )
    }


@dataclass
class Adding:
    """One submission on its way in: which runs were dead before it, and which it has added."""

    db: Connection
    if_exists: IfExists
    dead: set[str]
    added: dict[str, str] = field(default_factory=dict)  # run_sha256 to id

    def add(self, new: NewRun) -> tuple[str, Outcome | None]:
        """Return the run's id and what became of it; None says: added, look at its state."""
        if_exists = self.if_exists if new.asked else "skip"
        known = None if if_exists == "rerun" else self._standing(new.run_sha256)
        if new.run_sha256 in self.added:  # a cell of two sweeps of this submission
            run_id, outcome = self.added[new.run_sha256], Outcome.EXISTS
        elif known is None:
            run_id, outcome = self._insert(new), None
        elif if_exists == "error":
            raise UsageError(
                f"`{new.name}` seed {new.seed} exists already as run {known.id} ({known.state}); "
                "leave it (skip) or add another (rerun)"
            )
        else:
            run_id, outcome = known.id, self._reuse(known, new)
        _record_cell(self.db, new, run_id, outcome)
        return run_id, outcome

    def _standing(self, run_sha256: str) -> Any | None:
        """Return the run of a hash that counts here: what this submission added comes first."""
        if run_id := self.added.get(run_sha256):
            return self.db.execute(_IDENTITY.where(runs.c.id == run_id)).one()
        return newest_of(self.db, run_sha256)

    def _reuse(self, known: Any, new: NewRun) -> Outcome:
        if known.id not in self.dead:
            return Outcome.EXISTS
        if known.state in DEAD:  # else its parent was put back and took it along
            put_back(self.db, known.id, "retried")
        if new.held:
            self.db.execute(update(runs).where(runs.c.id == known.id).values(held=True))
            record(self.db, known.id, "held")
        return Outcome.RETRIED

    def _insert(self, new: NewRun) -> str:
        db = self.db
        parents = {role: self._parent(new, role, sha) for role, sha in new.parents.items()}
        state = state_after_parents([row.state for row in parents.values()])
        run_id = _free_id(db)
        values = _first_values(new) | {"id": run_id, "state": state, "created_at": now()}
        db.execute(insert(runs).values(values))
        for role, row in parents.items():
            db.execute(insert(run_parents).values(run_id=run_id, role=role, parent_id=row.id))
        hurry_parents(db, run_id, -new.priority)
        record(db, run_id, "enqueued", to=state)
        self.added[new.run_sha256] = run_id
        return run_id

    def _parent(self, new: NewRun, role: str, run_sha256: str) -> Any:
        row = self._standing(run_sha256)
        if row is None:
            raise NotFound(
                f"`{new.name}` needs a run for {role} that is not in the store "
                f"(hash {run_sha256[:12]}); submit that one first"
            )
        if row.state in DEAD:
            put_back(self.db, row.id, "retried")
            row = self._standing(run_sha256)
            assert row is not None
        return row


def _first_values(new: NewRun) -> dict[str, Any]:
    return {
        "name": new.name,
        "message": "",
        "seed": new.seed,
        "recipe_sha256": new.recipe_sha256,
        "run_sha256": new.run_sha256,
        "code_commit": str(new.snapshot.get("code_commit") or ""),
        "code_dirty": new.snapshot.get("code_dirty"),
        "urgency": -new.priority,
        "held": new.held,
        "cancel_requested": False,
        "attempt": 0,
        "renewals": 0,
        "failures": 0,
        "checkpoint_step": -1,
        "step": 0,
        "total_steps": 0,
        "epoch": 0,
        "epochs": new.epochs,
        "gpus": new.gpus,
        "time_limit_seconds": new.time_limit_seconds,
        "recipe": to_json(new.recipe),
        "snapshot": to_json(new.snapshot),
    }


def _free_id(db: Connection) -> str:
    while True:
        run_id = "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH))
        if db.scalar(select(1).where(runs.c.id == run_id)) is None:
            return run_id


def _record_cell(db: Connection, new: NewRun, run_id: str, outcome: Outcome | None) -> None:
    """Let the sweep's cell point to its run; the label may have changed since it was made."""
    if new.sweep is None:
        return
    if db.scalar(select(1).where(sweeps.c.name == new.sweep)) is None:
        db.execute(insert(sweeps).values(name=new.sweep, created_at=now()))
    if outcome is Outcome.EXISTS:
        run_id = _cells_own(db, new) or run_id
    row = {
        "sweep": new.sweep,
        "run_sha256": new.run_sha256,
        "cell": new.cell,
        "seed": new.seed,
        "run_id": run_id,
        "submission": to_json({name: getattr(new, name) for name in SUBMITTED}),
    }
    upsert(db, sweep_cells, [row])


def _cells_own(db: Connection, new: NewRun) -> str | None:
    """Return the run that the cell has, if it lives: a rerun stays the cell's run."""
    query = (
        select(runs.c.id)
        .join(sweep_cells, sweep_cells.c.run_id == runs.c.id)
        .where(sweep_cells.c.sweep == new.sweep, sweep_cells.c.run_sha256 == new.run_sha256)
        .where(runs.c.state.not_in(DEAD))
    )
    found: str | None = db.scalar(query)
    return found
