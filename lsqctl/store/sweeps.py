"""Sweeps as a whole: how each cell stands, and how those that came to nothing are put back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from lsqctl.errors import NotFound
from lsqctl.run import Enqueued, NewRun, Outcome, Run
from lsqctl.store.base import Base
from lsqctl.store.columns import from_json
from lsqctl.store.database import reads, reshapes
from lsqctl.store.enqueue import SUBMITTED, Adding, dead_runs, newest_of, told
from lsqctl.store.family import IDLE, put_back
from lsqctl.store.limits import limit_failures
from lsqctl.store.rows import load_runs
from lsqctl.store.tables import runs, sweep_cells, sweeps

MISSING, HELD, LOST = "missing", "held", "lost"


@dataclass(frozen=True, slots=True)
class SweepCell:
    """One cell of a sweep and the run that stands for it; None when it was removed."""

    sweep: str
    run_sha256: str
    cell: str
    seed: int
    run: Run | None

    @property
    def standing(self) -> str:
        """How it stands in a word: the run's state, or held, lost or missing."""
        if self.run is None:
            return MISSING
        if self.run.lease_lapsed:
            return LOST
        return HELD if self.run.held and self.run.state in IDLE else self.run.state.value


@dataclass(frozen=True, slots=True)
class SweepSummary:
    """A sweep in one line. ``counts`` says how many cells stand how, by state, held, missing.

    ``max_failures`` failed cells stop it; None never do.
    """

    name: str
    created_at: datetime
    max_failures: int | None
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Resume:
    """What is put back: ``failed`` cells (cancelled ones too), ``missing`` ones, or both.

    ``max_failures`` is the sweep's limit from now on (0: none); None leaves it.
    """

    failed: bool = True
    missing: bool = True
    from_scratch: bool = False
    max_failures: int | None = None
    dry_run: bool = False


class _Undone(Exception):
    """Carries what a dry run would have done out of its transaction, and so undoes it."""


class Sweeps(Base):
    """Looking at sweeps and resuming them."""

    @reads
    def sweeps(self, db: Connection) -> list[str]:
        """Return the names of all sweeps, the oldest first."""
        return list(db.scalars(select(sweeps.c.name).order_by(sweeps.c.created_at, sweeps.c.name)))

    @reads
    def sweep_summaries(self, db: Connection) -> list[SweepSummary]:
        """Return a line for each sweep, the oldest first."""
        counts: dict[str, Counter[str]] = {}
        for row in db.execute(_standings()):
            held = row.held and row.state in IDLE
            word = HELD if held else row.state or MISSING
            counts.setdefault(row.sweep, Counter())[word] += row.n
        rows = db.execute(select(sweeps).order_by(sweeps.c.created_at, sweeps.c.name))
        return [
            SweepSummary(row.name, row.created_at, row.max_failures, counts.get(row.name, {}))
            for row in rows
        ]

    @reads
    def sweep_cells(self, db: Connection, sweep: str) -> list[SweepCell]:
        """Return a sweep's cells by name and seed.  Raises NotFound."""
        rows = _cells(db, sweep)
        found = load_runs(db, [row.run_id for row in rows if row.run_id])
        return [
            SweepCell(row.sweep, row.run_sha256, row.cell, row.seed, found.get(row.run_id))
            for row in rows
        ]

    def resume_sweep(
        self, name: str, wanted: Resume, *, forget: Callable[[str], object] | None = None
    ) -> list[Enqueued]:
        """Put cells back, all of them or none, and return what became of each.

        A failed cell brings its failed parents back, a missing one those that are cells of a sweep
        too. ``forget`` is called with the id of each run that begins from scratch, before anyone
        can claim it, and drops its files. Raises NotFound for an unknown sweep, and for a missing
        parent that no sweep knows.
        """
        try:
            return self._resume(name, wanted, forget or (lambda run_id: None))
        except _Undone as undone:
            done: list[Enqueued] = undone.args[0]
            return done

    @reshapes
    def _resume(
        self, db: Connection, name: str, wanted: Resume, forget: Callable[[str], object]
    ) -> list[Enqueued]:
        rows = _cells(db, name)
        adding = Adding(db, "skip", dead_runs(db, [row.run_sha256 for row in rows]))
        done: list[tuple[str, Outcome | None]] = []
        if wanted.failed:
            dead = [row.run_id for row in rows if row.run_id in adding.dead]
            _put_all_back(db, dead, from_scratch=wanted.from_scratch)
            done += [(run_id, Outcome.RETRIED) for run_id in dead]
        if wanted.missing:
            done += [_restore(adding, row) for row in rows if row.run_id is None]
        if wanted.max_failures is not None:
            limit_failures(db, [name], wanted.max_failures)
        enqueued = told(db, done)
        if wanted.dry_run:
            raise _Undone(enqueued)
        if wanted.failed and wanted.from_scratch:
            for run_id in dead:
                forget(run_id)
        return enqueued


def _standings() -> Any:
    columns = sweep_cells.c.sweep, runs.c.state, runs.c.held
    cells = sweep_cells.outerjoin(runs, runs.c.id == sweep_cells.c.run_id)
    return select(*columns, func.count().label("n")).select_from(cells).group_by(*columns)


def _cells(db: Connection, sweep: str) -> Sequence[Row[Any]]:
    if db.scalar(select(1).where(sweeps.c.name == sweep)) is None:
        raise NotFound(f"no sweep is named `{sweep}`")
    columns = sweep_cells.c
    query = select(sweep_cells).where(columns.sweep == sweep)
    return db.execute(query.order_by(columns.cell, columns.seed)).all()


def _put_all_back(db: Connection, run_ids: Sequence[str], *, from_scratch: bool) -> None:
    """Put back runs that were dead; one whose parent has just taken it along still begins anew."""
    for run_id in run_ids:
        put_back(db, run_id, "retried", from_scratch=from_scratch)


def _restore(adding: Adding, row: Row[Any]) -> tuple[str, Outcome | None]:
    """Enqueue a cell whose run was removed, from what was stored when it was submitted."""
    if added := adding.added.get(row.run_sha256):
        return added, None  # another cell needed it
    db, new = adding.db, _submission(row)
    for role, sha256 in new.parents.items():
        if newest_of(db, sha256) is None:
            _restore(adding, _cell_of_parent(db, new, role, sha256))
    run_id, outcome = adding.add(new)
    here = sweep_cells.c.run_sha256 == new.run_sha256, sweep_cells.c.run_id.is_(None)
    db.execute(update(sweep_cells).where(*here).values(run_id=run_id))
    return run_id, outcome


def _submission(row: Row[Any]) -> NewRun:
    kept = {key: value for key, value in from_json(row.submission).items() if key in SUBMITTED}
    return NewRun(**kept, run_sha256=row.run_sha256, seed=row.seed, sweep=row.sweep, cell=row.cell)


def _cell_of_parent(db: Connection, child: NewRun, role: str, run_sha256: str) -> Row[Any]:
    row = db.execute(select(sweep_cells).where(sweep_cells.c.run_sha256 == run_sha256)).first()
    if row is None:
        section, _, key = role.partition(".")
        reference = child.recipe.get(section, {}).get(key)
        parent = reference.get("run") if isinstance(reference, Mapping) else None
        advice = f"lsqctl submit {parent}" if parent else f"submit the recipe of its {role}"
        raise NotFound(
            f"`{child.name}` seed {child.seed} needs the run of "
            f"`{parent or run_sha256[:12]}`, which was removed; {advice}"
        )
    return row
