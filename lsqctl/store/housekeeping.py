"""Keep house: tags and notes, what may be removed, checkpoints that nothing needs any more."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select, update

from lsqctl.errors import IllegalTransition, UsageError
from lsqctl.run import UNFINISHED, RunState
from lsqctl.store.base import Base
from lsqctl.store.database import reads, writes
from lsqctl.store.rows import chunks
from lsqctl.store.states import locked, record
from lsqctl.store.tables import checkpoints, results, run_parents, run_tags, runs
from lsqctl.store.upsert import upsert

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")


@dataclass(frozen=True, slots=True)
class Housed:
    """What decides which folders of a run may go.

    ``fence`` is that of a living attempt. ``stored`` are the names of its checkpoints that have a
    row, ``needed`` of those that its results and its mark of the best name.
    """

    state: RunState
    fence: str | None
    finished_at: datetime | None
    stored: frozenset[str]
    needed: frozenset[str]


class Housekeeping(Base):
    """Tagging, noting, forgetting."""

    @reads
    def tags(self, db: Connection, ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the tags of each of these runs, sorted; runs without one are left out."""
        found: dict[str, list[str]] = defaultdict(list)
        for some in chunks(ids):
            query = select(run_tags).where(run_tags.c.run_id.in_(some)).order_by(run_tags.c.tag)
            for row in db.execute(query):
                found[row.run_id].append(row.tag)
        return {run_id: tuple(words) for run_id, words in found.items()}

    @writes
    def tag(
        self, db: Connection, run_id: str, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> None:
        """Give a run tags and take others away; what is so already is no error.

        Raises NotFound, and UsageError for what cannot be a tag.
        """
        for word in add:
            _check_tag(word)
        locked(db, run_id)
        mine = run_tags.c.run_id == run_id
        db.execute(delete(run_tags).where(mine, run_tags.c.tag.in_(remove)))
        upsert(db, run_tags, [{"run_id": run_id, "tag": word} for word in add])

    @writes
    def annotate(self, db: Connection, run_id: str, note: str) -> None:
        """Set a person's note on a run; empty removes it.  Raises NotFound."""
        locked(db, run_id)
        db.execute(update(runs).where(runs.c.id == run_id).values(note=note))
        record(db, run_id, "annotated")

    @reads
    def housed(self, db: Connection, ids: Sequence[str]) -> dict[str, Housed]:
        """Return what of these runs decides which folders may go; unknown ids are left out."""
        found = {}
        for some in chunks(ids):
            stored, needed = _stored(db, some)
            query = select(runs.c.id, runs.c.state, runs.c.fence, runs.c.finished_at)
            for row in db.execute(query.where(runs.c.id.in_(some))):
                state = RunState(row.state)
                found[row.id] = Housed(
                    state,
                    row.fence if state is RunState.RUNNING else None,
                    row.finished_at,
                    frozenset(stored[row.id]),
                    frozenset(needed[row.id]),
                )
        return found

    @writes
    def forget_checkpoints(self, db: Connection, run_id: str, names: Sequence[str]) -> bool:
        """Drop the rows of these checkpoint folders of a run; False when it is unfinished again."""
        if RunState(locked(db, run_id).state) in UNFINISHED:
            return False
        mine = checkpoints.c.run_id == run_id
        directories = [
            directory
            for directory in db.scalars(select(checkpoints.c.directory).where(mine))
            if _name(directory) in names
        ]
        db.execute(delete(checkpoints).where(mine, checkpoints.c.directory.in_(directories)))
        return True


def _check_tag(word: str) -> None:
    """Refuse what could not be typed without quotes, or be told from an option."""
    if not _TAG.fullmatch(word):
        raise UsageError(
            f"`{word}` cannot be a tag: a letter or digit, then letters, digits and . _ - /, "
            "64 at most"
        )


def check_removable(db: Connection, run_id: str, ids: Sequence[str], *, force: bool) -> None:
    """Raise IllegalTransition for a run that cannot go together with ``ids``; NotFound."""
    if locked(db, run_id).state == RunState.RUNNING:
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
    if lost := [row for row in children if row.state != RunState.SUCCEEDED]:
        raise IllegalTransition(
            f"run {run_id} is what {_listed(lost)} would start from; remove those with it"
        )
    if children and not force:
        raise IllegalTransition(
            f"run {run_id} is what {_listed(children)} started from; --force removes it anyway"
        )


def _listed(rows: Sequence[Any]) -> str:
    shown = ", ".join(f"{row.name} ({row.id})" for row in rows[:3])
    return shown + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")


def _stored(db: Connection, ids: Sequence[str]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    stored: dict[str, set[str]] = defaultdict(set)
    needed: dict[str, set[str]] = defaultdict(set)
    rows = select(checkpoints.c.run_id, checkpoints.c.directory, checkpoints.c.best)
    for row in db.execute(rows.where(checkpoints.c.run_id.in_(ids))):
        stored[row.run_id].add(_name(row.directory))
        if row.best:
            needed[row.run_id].add(_name(row.directory))
    named = select(results.c.run_id, results.c.checkpoint_path)
    mine = results.c.run_id.in_(ids)
    for run_id, path in db.execute(named.where(mine, results.c.checkpoint_path != "")):
        needed[run_id].add(_name(path))
    return stored, needed


def _name(directory: str) -> str:
    return directory.rstrip("/").rpartition("/")[2]
