"""Which complete checkpoints a run has on disk, and which of them may go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, delete, func, select, update

from lsqctl.events import Checkpoint, Measurement, StoredCheckpoint
from lsqctl.failpoint import failpoint
from lsqctl.run import ACTIVE_STATES, Lease, RunState
from lsqctl.store.database import StorePart, read_tx, write_tx
from lsqctl.store.dialects import now, upsert
from lsqctl.store.metrics import insert_measured
from lsqctl.store.rows import batches, is_live
from lsqctl.store.tables import attempts, checkpoints, live_runs, results, runs
from lsqctl.store.transitions import require_lease, select_for_update


@dataclass(frozen=True, slots=True)
class RunRetention:
    """What decides which folders of a run may go.

    ``fence`` is that of a living attempt. ``stored`` are the names of its checkpoints that have a
    row, ``needed`` of those that its results and its mark of the best name.
    """

    state: RunState
    fence: str | None
    finished_at: datetime | None
    stored: frozenset[str]
    needed: frozenset[str]


class Checkpoints(StorePart):
    """Checkpoints: recorded under a lease, read, and deleted when nothing needs them."""

    @read_tx
    def largest_bytes(self, db: Connection) -> int:
        """Return the size of the largest checkpoint of any run, 0 where there is none."""
        return db.scalar(select(func.max(checkpoints.c.size_bytes))) or 0

    @write_tx
    def record(
        self,
        db: Connection,
        lease: Lease,
        checkpoint: Checkpoint,
        measured: Sequence[Measurement] = (),
        replaced: Sequence[Path | str] = (),
    ) -> None:
        """Store a checkpoint with what was measured up to it; drop the rows of ``replaced`` ones.

        A best one takes the mark from the one before. Going further than ever before clears the
        run's count of failures. Raises LeaseLost.
        """
        require_lease(db, lease)
        insert_measured(db, lease, measured)
        of_run = checkpoints.c.run_id == lease.run_id
        directories = [str(directory) for directory in replaced]
        db.execute(delete(checkpoints).where(of_run, checkpoints.c.directory.in_(directories)))
        if checkpoint.best:
            db.execute(update(checkpoints).where(of_run).values(best=False))
        upsert(db, checkpoints, [_row(lease, checkpoint)])
        _record_progress(db, lease, checkpoint.step)
        failpoint("checkpoint.before-commit")

    @write_tx
    def relocate(self, db: Connection, lease: Lease, run_dir: Path) -> None:
        """Let the rows name the run's folder of today: a workspace may be moved.

        Raises LeaseLost.
        """
        require_lease(db, lease)
        columns = checkpoints.c
        of_run = columns.run_id == lease.run_id
        for directory in db.scalars(select(columns.directory).where(of_run)).all():
            moved = str(run_dir / Path(directory).name)
            if moved == directory:
                continue
            db.execute(delete(checkpoints).where(of_run, columns.directory == moved))
            change = update(checkpoints).where(of_run, columns.directory == directory)
            db.execute(change.values(directory=moved))

    @read_tx
    def list(self, db: Connection, run_id: str) -> Sequence[StoredCheckpoint]:
        """Return a run's checkpoints, the furthest first."""
        if not is_live(db, run_id):
            return []
        names = [checkpoints.c[name] for name in StoredCheckpoint.__dataclass_fields__]
        query = select(*names).where(checkpoints.c.run_id == run_id)
        order = checkpoints.c.step.desc(), checkpoints.c.created_at.desc()
        return [StoredCheckpoint(*row) for row in db.execute(query.order_by(*order))]

    @read_tx
    def directories(self, db: Connection) -> Sequence[tuple[str, str]]:
        """Return (run id, folder) of every checkpoint that has a row."""
        query = select(checkpoints.c.run_id, checkpoints.c.directory).join(
            live_runs, live_runs.c.id == checkpoints.c.run_id
        )
        return [(row.run_id, row.directory) for row in db.execute(query)]

    @read_tx
    def retention(self, db: Connection, ids: Sequence[str]) -> dict[str, RunRetention]:
        """Return what of these runs decides which folders may go; unknown ids are left out.

        Runs in the trash are in it: a folder that is still on its way there belongs to one.
        """
        retention_by_run = {}
        for batch in batches(ids):
            stored, needed = _stored_and_needed(db, batch)
            query = select(runs.c.id, runs.c.state, runs.c.fence, runs.c.finished_at)
            for row in db.execute(query.where(runs.c.id.in_(batch))):
                state = RunState(row.state)
                retention_by_run[row.id] = RunRetention(
                    state,
                    row.fence if state is RunState.RUNNING else None,
                    row.finished_at,
                    frozenset(stored[row.id]),
                    frozenset(needed[row.id]),
                )
        return retention_by_run

    @write_tx
    def delete(
        self,
        db: Connection,
        run_id: str,
        names: Sequence[str],
        set_aside: Callable[[], None] = lambda: None,
    ) -> bool:
        """Drop the rows of these checkpoint folders of a run; False when it is unfinished again.

        ``set_aside`` moves the folders while no attempt can begin, which might write one of the
        same name; it may be called more than once.
        """
        if RunState(select_for_update(db, run_id).state) in ACTIVE_STATES:
            return False
        of_run = checkpoints.c.run_id == run_id
        directories = [
            directory
            for directory in db.scalars(select(checkpoints.c.directory).where(of_run))
            if _folder_name(directory) in names
        ]
        db.execute(delete(checkpoints).where(of_run, checkpoints.c.directory.in_(directories)))
        set_aside()
        return True


def _row(lease: Lease, checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "run_id": lease.run_id,
        "directory": str(checkpoint.directory),
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "sha256": checkpoint.sha256,
        "size_bytes": checkpoint.size_bytes,
        "best": checkpoint.best,
        "fence": lease.fence,
        "created_at": now(),
    }


def _record_progress(db: Connection, lease: Lease, step: int) -> None:
    if step <= select_for_update(db, lease.run_id).max_checkpoint_step:
        return
    db.execute(
        update(runs)
        .where(runs.c.id == lease.run_id)
        .values(max_checkpoint_step=step, consecutive_failures=0)
    )
    db.execute(
        update(attempts)
        .where(attempts.c.run_id == lease.run_id, attempts.c.number == lease.attempt)
        .values(moved_checkpoint=True)
    )


def _stored_and_needed(
    db: Connection, ids: Sequence[str]
) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    stored: dict[str, set[str]] = defaultdict(set)
    needed: dict[str, set[str]] = defaultdict(set)
    rows = select(checkpoints.c.run_id, checkpoints.c.directory, checkpoints.c.best)
    for row in db.execute(rows.where(checkpoints.c.run_id.in_(ids))):
        stored[row.run_id].add(_folder_name(row.directory))
        if row.best:
            needed[row.run_id].add(_folder_name(row.directory))
    named = select(results.c.run_id, results.c.checkpoint_path)
    of_runs = results.c.run_id.in_(ids)
    for run_id, path in db.execute(named.where(of_runs, results.c.checkpoint_path != "")):
        needed[run_id].add(_folder_name(path))
    return stored, needed


def _folder_name(directory: str) -> str:
    return directory.rstrip("/").rpartition("/")[2]
