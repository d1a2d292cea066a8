"""Add runs: all or nothing, never the same run twice unless asked, parents before children."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, case, insert, select

from lsqctl.errors import NotFound, UsageError
from lsqctl.failpoint import failpoint
from lsqctl.run import UNFINISHED, Enqueued, IfExists, NewRun, Outcome, RunState
from lsqctl.store.base import Base
from lsqctl.store.columns import now, to_json
from lsqctl.store.database import reshapes
from lsqctl.store.family import DEAD, put_back, state_after_parents
from lsqctl.store.rows import load_runs
from lsqctl.store.states import record
from lsqctl.store.tables import run_parents, runs, sweep_cells, sweeps
from lsqctl.store.upsert import upsert

# No vowels, so that no id is a word; no 0, 1 or l, which are taken for O, I and 1.
ALPHABET = "23456789bcdfghjkmnpqrstvwxz"
ID_LENGTH = 8

# What a cell keeps of its NewRun beside its own columns, to be enqueued again from.
SUBMITTED = ("name", "recipe", "recipe_sha256", "snapshot", "parents", "epochs")


class Enqueues(Base):
    """Submitting."""

    @reshapes
    def enqueue(
        self, db: Connection, new: Sequence[NewRun], *, if_exists: IfExists = "skip"
    ) -> list[Enqueued]:
        """Add runs in one transaction and return what became of each, in the same order.

        ``skip`` leaves an unfinished or succeeded run of the same ``run_sha256`` alone and puts a
        failed or cancelled one back; ``rerun`` always adds; ``error`` raises UsageError. Raises
        NotFound for a parent that is neither stored nor earlier in ``new``; then nothing is added.
        """
        done: list[tuple[str, Outcome | None]] = []
        for each in new:
            run_id, outcome = _enqueue_one(db, each, if_exists)
            _record_cell(db, each, run_id)
            done.append((run_id, outcome))
        loaded = load_runs(db, [run_id for run_id, _ in done])
        failpoint("submit.before-commit")
        return [
            Enqueued(loaded[run_id], outcome or Outcome(loaded[run_id].state))
            for run_id, outcome in done
        ]


def newest_of(db: Connection, run_sha256: str) -> Any | None:
    """Return the run that stands for a hash: succeeded before unfinished before the rest."""
    rank = case((runs.c.state == RunState.SUCCEEDED, 0), (runs.c.state.in_(UNFINISHED), 1), else_=2)
    query = (
        select(runs.c.id, runs.c.name, runs.c.state)
        .where(runs.c.run_sha256 == run_sha256)
        .order_by(rank, runs.c.seq.desc())
        .limit(1)
    )
    return db.execute(query).one_or_none()


def _enqueue_one(db: Connection, new: NewRun, if_exists: IfExists) -> tuple[str, Outcome | None]:
    """Return the run's id and what became of it; None says: added, look at its state."""
    known = None if if_exists == "rerun" else newest_of(db, new.run_sha256)
    if known is None:
        return _insert(db, new), None
    if if_exists == "error":
        raise UsageError(
            f"`{new.name}` seed {new.seed} exists already as run {known.id} ({known.state}); "
            "leave it (skip) or add another (rerun)"
        )
    if known.state not in DEAD:
        return known.id, Outcome.EXISTS
    put_back(db, known.id, "retried")
    return known.id, Outcome.RETRIED


def _insert(db: Connection, new: NewRun) -> str:
    parents = {role: _parent(db, new, role, sha) for role, sha in new.parents.items()}
    state = state_after_parents([row.state for row in parents.values()])
    run_id = _free_id(db)
    db.execute(insert(runs).values(**_first_values(new), id=run_id, state=state, created_at=now()))
    for role, row in parents.items():
        db.execute(insert(run_parents).values(run_id=run_id, role=role, parent_id=row.id))
    record(db, run_id, "enqueued", to=state)
    return run_id


def _first_values(new: NewRun) -> Mapping[str, Any]:
    return {
        "name": new.name,
        "message": "",
        "seed": new.seed,
        "recipe_sha256": new.recipe_sha256,
        "run_sha256": new.run_sha256,
        "code_commit": str(new.snapshot.get("code_commit") or ""),
        "code_dirty": new.snapshot.get("code_dirty"),
        "urgency": -new.priority,
        "held": False,
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


def _parent(db: Connection, new: NewRun, role: str, run_sha256: str) -> Any:
    row = newest_of(db, run_sha256)
    if row is None:
        raise NotFound(
            f"`{new.name}` needs a run for {role} that is not in the store "
            f"(hash {run_sha256[:12]}); submit that one first"
        )
    if row.state in DEAD:
        put_back(db, row.id, "retried")
        row = newest_of(db, run_sha256)
        assert row is not None
    return row


def _free_id(db: Connection) -> str:
    while True:
        run_id = "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH))
        if db.scalar(select(1).where(runs.c.id == run_id)) is None:
            return run_id


def _record_cell(db: Connection, new: NewRun, run_id: str) -> None:
    if new.sweep is None:
        return
    if db.scalar(select(1).where(sweeps.c.name == new.sweep)) is None:
        db.execute(insert(sweeps).values(name=new.sweep, created_at=now()))
    row = {
        "sweep": new.sweep,
        "run_sha256": new.run_sha256,
        "cell": new.cell,
        "seed": new.seed,
        "run_id": run_id,
        "submission": to_json({name: getattr(new, name) for name in SUBMITTED}),
    }
    upsert(db, sweep_cells, [row])
