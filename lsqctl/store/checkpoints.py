"""Which complete checkpoints a run has on disk, and which of them may go."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, select, update

from lsqctl.errors import IllegalTransition, UsageError
from lsqctl.events import Checkpoint, Measurement, StoredCheckpoint
from lsqctl.failpoint import failpoint
from lsqctl.run import ACTIVE_STATES, Lease, RunState
from lsqctl.store.database import StorePart, read_tx, write_tx
from lsqctl.store.dialects import now, upsert
from lsqctl.store.metrics import insert_measured
from lsqctl.store.rows import batches
from lsqctl.store.tables import attempts, checkpoints, results, run_parents, run_tags, runs
from lsqctl.store.transitions import record_event, require_lease, select_for_update


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


_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")


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


class RunRetentions(StorePart):
    """Tagging, noting, forgetting."""

    @read_tx
    def tags(self, db: Connection, ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the tags of each of these runs, sorted; runs without one are left out."""
        tags_by_run: dict[str, list[str]] = defaultdict(list)
        for batch in batches(ids):
            query = select(run_tags).where(run_tags.c.run_id.in_(batch)).order_by(run_tags.c.tag)
            for row in db.execute(query):
                tags_by_run[row.run_id].append(row.tag)
        return {run_id: tuple(words) for run_id, words in tags_by_run.items()}

    @write_tx
    def tag(
        self, db: Connection, run_id: str, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> None:
        """Give a run tags and take others away; what is so already is no error.

        Raises NotFound, and UsageError for what cannot be a tag.
        """
        for word in add:
            _check_tag(word)
        select_for_update(db, run_id)
        of_run = run_tags.c.run_id == run_id
        db.execute(delete(run_tags).where(of_run, run_tags.c.tag.in_(remove)))
        upsert(db, run_tags, [{"run_id": run_id, "tag": word} for word in add])

    @write_tx
    def annotate(self, db: Connection, run_id: str, note: str) -> None:
        """Set a person's note on a run; empty removes it.  Raises NotFound."""
        select_for_update(db, run_id)
        db.execute(update(runs).where(runs.c.id == run_id).values(note=note))
        record_event(db, run_id, "annotated")

    @read_tx
    def retention(self, db: Connection, ids: Sequence[str]) -> dict[str, RunRetention]:
        """Return what of these runs decides which folders may go; unknown ids are left out."""
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
    def delete_checkpoints(self, db: Connection, run_id: str, names: Sequence[str]) -> bool:
        """Drop the rows of these checkpoint folders of a run; False when it is unfinished again."""
        if RunState(select_for_update(db, run_id).state) in ACTIVE_STATES:
            return False
        of_run = checkpoints.c.run_id == run_id
        directories = [
            directory
            for directory in db.scalars(select(checkpoints.c.directory).where(of_run))
            if _folder_name(directory) in names
        ]
        db.execute(delete(checkpoints).where(of_run, checkpoints.c.directory.in_(directories)))
        return True


def _check_tag(tag: str) -> None:
    """Refuse what could not be typed without quotes, or be told from an option."""
    if not _TAG.fullmatch(tag):
        raise UsageError(
            f"`{tag}` cannot be a tag: a letter or digit, then letters, digits and . _ - /, "
            "64 at most"
        )


def check_removable(db: Connection, run_id: str, ids: Sequence[str], *, force: bool) -> None:
    """Raise IllegalTransition for a run that cannot go together with ``ids``; NotFound."""
    if select_for_update(db, run_id).state == RunState.RUNNING:
        raise IllegalTransition(f"run {run_id} is running; `lsqctl runs cancel {run_id}` first")
    _check_children(db, run_id, ids, force=force)


def _check_children(db: Connection, run_id: str, ids: Sequence[str], *, force: bool) -> None:
    query = (
        select(runs.c.id, runs.c.name, runs.c.state)
        .join(run_parents, run_parents.c.run_id == runs.c.id)
        .where(run_parents.c.parent_id == run_id)
        .distinct()
    )
    children = [row for row in db.execute(query) if row.id not in ids]
    if not_succeeded := [row for row in children if row.state != RunState.SUCCEEDED]:
        raise IllegalTransition(
            f"run {run_id} is what {_name_some(not_succeeded)} would start from; "
            "remove those with it"
        )
    if children and not force:
        raise IllegalTransition(
            f"run {run_id} is what {_name_some(children)} started from; --force removes it anyway"
        )


def _name_some(rows: Sequence[Any]) -> str:
    shown = ", ".join(f"{row.name} ({row.id})" for row in rows[:3])
    return shown + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")


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
