"""Sweeps as a whole: the status of each cell, and how those that failed are requeued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select, update

from lsqctl.errors import NotFound
from lsqctl.run import EndReason, EnqueuedRun, EnqueueOutcome, NewRun, Run
from lsqctl.store.database import StorePart, exclusive_tx, read_tx
from lsqctl.store.dependencies import NOT_STARTED, requeue, set_failure_limit
from lsqctl.store.dialects import from_json
from lsqctl.store.enqueue import (
    RESUBMIT_FIELDS,
    Submission,
    as_enqueued,
    canonical_run,
    retryable_run_ids,
)
from lsqctl.store.queue_overview import select_sweep_run_ids
from lsqctl.store.rows import load_runs
from lsqctl.store.tables import AnyRow, AnySelect, live_runs, sweep_cells, sweeps

MISSING, HELD, LEASE_EXPIRED, STOPPED = "missing", "held", "lease_expired", "stopped"


@dataclass(frozen=True, slots=True)
class SweepCell:
    """One cell of a sweep and the run that stands for it; None when it was removed."""

    sweep: str
    run_sha256: str
    cell: str
    seed: int
    run: Run | None

    @property
    def status(self) -> str:
        """The run's state, or held, lease_expired, stopped (at a rung) or missing."""
        if self.run is None:
            return MISSING
        if self.run.lease_expired:
            return LEASE_EXPIRED
        if self.run.reason is EndReason.STOPPED:
            return STOPPED
        return HELD if self.run.held and self.run.state in NOT_STARTED else self.run.state.value


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
class ResumeOptions:
    """What is requeued: ``failed`` cells (cancelled ones too), ``missing`` ones, or both.

    ``max_failures`` is the sweep's limit from now on (0: none); None leaves it.
    """

    failed: bool = True
    missing: bool = True
    from_scratch: bool = False
    max_failures: int | None = None
    dry_run: bool = False


class _DryRunRollback(Exception):
    """Carries what a dry run would have done out of its transaction, and so undoes it."""


class Sweeps(StorePart):
    """Reads of sweeps, and their resuming."""

    @read_tx
    def names(self, db: Connection) -> list[str]:
        """Return the names of all sweeps, the oldest first."""
        return list(db.scalars(select(sweeps.c.name).order_by(sweeps.c.created_at, sweeps.c.name)))

    @read_tx
    def summaries(self, db: Connection) -> list[SweepSummary]:
        """Return a line for each sweep, the oldest first."""
        counts: dict[str, Counter[str]] = {}
        for row in db.execute(_select_status_counts()):
            held = row.held and row.state in NOT_STARTED
            stopped = row.reason == EndReason.STOPPED
            status = HELD if held else STOPPED if stopped else row.state or MISSING
            counts.setdefault(row.sweep, Counter())[status] += row.n
        rows = db.execute(select(sweeps).order_by(sweeps.c.created_at, sweeps.c.name))
        return [
            SweepSummary(row.name, row.created_at, row.max_failures, counts.get(row.name, {}))
            for row in rows
        ]

    @read_tx
    def cells(self, db: Connection, sweep: str) -> list[SweepCell]:
        """Return a sweep's cells by name and seed.  Raises NotFound."""
        rows = _cells(db, sweep)
        runs_by_id = load_runs(db, [row.run_id for row in rows if row.run_id])
        return [
            SweepCell(row.sweep, row.run_sha256, row.cell, row.seed, runs_by_id.get(row.run_id))
            for row in rows
        ]

    @read_tx
    def run_ids(self, db: Connection, sweep: str) -> list[str]:
        """Return the ids of a sweep's runs, in the order they were submitted."""
        query = (
            select(live_runs.c.id)
            .where(live_runs.c.id.in_(select_sweep_run_ids(sweep)))
            .order_by(live_runs.c.seq)
        )
        return list(db.scalars(query))

    def resume(
        self,
        name: str,
        options: ResumeOptions,
        *,
        delete_files: Callable[[str], object] | None = None,
    ) -> list[EnqueuedRun]:
        """Put cells back, all of them or none, and return what became of each.

        A failed cell brings its failed parents back, a missing one those that are cells of a sweep
        too. ``delete_files`` is called with the id of each run that begins from scratch, before
        anyone can claim it, and drops its files. Raises NotFound for an unknown sweep, and for a
        missing parent that no sweep knows.
        """
        try:
            return self._resume(name, options, delete_files or (lambda run_id: None))
        except _DryRunRollback as rollback:
            enqueued: list[EnqueuedRun] = rollback.args[0]
            return enqueued

    @exclusive_tx
    def _resume(
        self,
        db: Connection,
        name: str,
        options: ResumeOptions,
        delete_files: Callable[[str], object],
    ) -> list[EnqueuedRun]:
        rows = _cells(db, name)
        submission = Submission(db, "skip", retryable_run_ids(db, [row.run_sha256 for row in rows]))
        outcomes: list[tuple[str, EnqueueOutcome | None]] = []
        if options.failed:
            retryable = [row.run_id for row in rows if row.run_id in submission.retryable]
            requeue(db, retryable, from_scratch=options.from_scratch)
            outcomes += [(run_id, EnqueueOutcome.RETRIED) for run_id in retryable]
        if options.missing:
            outcomes += [_enqueue_missing(submission, row) for row in rows if row.run_id is None]
        if options.max_failures is not None:
            set_failure_limit(db, [name], options.max_failures)
        enqueued = as_enqueued(db, outcomes)
        if options.dry_run:
            raise _DryRunRollback(enqueued)
        if options.failed and options.from_scratch:
            for run_id in retryable:
                delete_files(run_id)
        return enqueued


# A cell whose run is in the trash has none.
_SELECT_CELLS: AnySelect = select(
    *(column for column in sweep_cells.c if column is not sweep_cells.c.run_id),
    live_runs.c.id.label("run_id"),
).select_from(sweep_cells.outerjoin(live_runs, live_runs.c.id == sweep_cells.c.run_id))


def _select_status_counts() -> AnySelect:
    columns = sweep_cells.c.sweep, live_runs.c.state, live_runs.c.held, live_runs.c.reason
    cells = sweep_cells.outerjoin(live_runs, live_runs.c.id == sweep_cells.c.run_id)
    return select(*columns, func.count().label("n")).select_from(cells).group_by(*columns)


def _cells(db: Connection, sweep: str) -> Sequence[AnyRow]:
    if db.scalar(select(1).where(sweeps.c.name == sweep)) is None:
        raise NotFound(f"no sweep is named `{sweep}`")
    columns = sweep_cells.c
    query = _SELECT_CELLS.where(columns.sweep == sweep)
    return db.execute(query.order_by(columns.cell, columns.seed)).all()


def _enqueue_missing(submission: Submission, row: AnyRow) -> tuple[str, EnqueueOutcome | None]:
    """Enqueue a cell whose run was removed, from what was stored when it was submitted."""
    pending = [row]
    while True:
        new = _to_new_run(pending[-1])
        parents = [
            _cell_of_parent(submission.db, new, role, sha256)
            for role, sha256 in new.parents.items()
            if canonical_run(submission.db, sha256) is None
        ]
        if parents:
            pending += parents
            continue
        pending.pop()
        outcome = _enqueue_cell(submission, new)
        if not pending:
            return outcome


def _enqueue_cell(submission: Submission, new: NewRun) -> tuple[str, EnqueueOutcome | None]:
    if added := submission.added.get(new.run_sha256):
        return added, None  # another cell needed it
    db = submission.db
    run_id, outcome = submission.add(new)
    live = select(live_runs.c.id).where(live_runs.c.id == sweep_cells.c.run_id).exists()
    missing_cells = sweep_cells.c.run_sha256 == new.run_sha256, ~live
    db.execute(update(sweep_cells).where(*missing_cells).values(run_id=run_id))
    return run_id, outcome


def _to_new_run(row: AnyRow) -> NewRun:
    fields = {
        key: value for key, value in from_json(row.submission).items() if key in RESUBMIT_FIELDS
    }
    return NewRun(
        **fields, run_sha256=row.run_sha256, seed=row.seed, sweep=row.sweep, cell=row.cell
    )


def _cell_of_parent(db: Connection, child: NewRun, role: str, run_sha256: str) -> AnyRow:
    row = db.execute(_SELECT_CELLS.where(sweep_cells.c.run_sha256 == run_sha256)).first()
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
