"""Which complete checkpoints a run has on disk; a row is written only after the bytes are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, delete, select, update

from lsqctl.facts import Checkpoint, Measurement, StoredCheckpoint
from lsqctl.failpoint import failpoint
from lsqctl.run import Lease
from lsqctl.store.base import StorePart
from lsqctl.store.columns import now
from lsqctl.store.database import read_tx, write_tx
from lsqctl.store.metrics import insert_measured
from lsqctl.store.states import select_for_update, require_lease
from lsqctl.store.tables import attempts, checkpoints, runs
from lsqctl.store.upsert import upsert


class Checkpoints(StorePart):
    """Recording checkpoints under a lease, and reading them."""

    @write_tx
    def record_checkpoint(
        self,
        db: Connection,
        lease: Lease,
        checkpoint: Checkpoint,
        measured: Sequence[Measurement] = (),
        replaced: Sequence[Path | str] = (),
    ) -> None:
        """Store a checkpoint with what was measured up to it, and drop the rows of ``replaced`` ones.

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
        upsert(
            db,
            checkpoints,
            [
                {
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
            ],
        )
        _record_progress(db, lease, checkpoint.step)
        failpoint("checkpoint.before-commit")

    @write_tx
    def relocate_checkpoints(self, db: Connection, lease: Lease, run_dir: Path) -> None:
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
    def checkpoints(self, db: Connection, run_id: str) -> list[StoredCheckpoint]:
        """Return a run's checkpoints, the furthest first."""
        names = [checkpoints.c[name] for name in StoredCheckpoint.__dataclass_fields__]
        query = select(*names).where(checkpoints.c.run_id == run_id)
        order = checkpoints.c.step.desc(), checkpoints.c.created_at.desc()
        return [StoredCheckpoint(*row) for row in db.execute(query.order_by(*order))]


def _record_progress(db: Connection, lease: Lease, step: int) -> None:
    if step <= select_for_update(db, lease.run_id).checkpoint_step:
        return
    db.execute(
        update(runs).where(runs.c.id == lease.run_id).values(checkpoint_step=step, failures=0)
    )
    db.execute(
        update(attempts)
        .where(attempts.c.run_id == lease.run_id, attempts.c.number == lease.attempt)
        .values(progressed=True)
    )
