"""Find the run that a person means: an id, the beginning of one, a name, or ``@last``."""

from __future__ import annotations

import re

from sqlalchemy import Connection, select

from lsqctl.errors import NotFound, UsageError, did_you_mean
from lsqctl.run import Run
from lsqctl.store.base import StorePart
from lsqctl.store.database import read_tx
from lsqctl.store.rows import select_runs, to_run
from lsqctl.store.tables import runs

_LAST_PATTERN = re.compile(r"@last(?:~(\d{1,9}))?")
_MAX_SHOWN = 5


class RunRefs(StorePart):
    """Resolving references."""

    @read_tx
    def resolve(self, db: Connection, run_ref: str) -> Run:
        """Return the run of a full id, an exact name (its newest run), a unique prefix of an id,
        ``@last``, or ``@last~N`` (N before it).

        Raises NotFound, naming what is near, and UsageError for a prefix of several ids.
        """
        if match := _LAST_PATTERN.fullmatch(run_ref):
            return _last(db, run_ref, int(match[1] or 0))
        newest = select_runs().order_by(runs.c.seq.desc())
        for exact in (runs.c.id == run_ref.lower(), runs.c.name == run_ref):
            if row := db.execute(newest.where(exact).limit(1)).one_or_none():
                return to_run(row)
        start = runs.c.id.startswith(run_ref.lower(), autoescape=True)
        matches = db.execute(newest.where(start).limit(_MAX_SHOWN + 1)).all() if run_ref else []
        if not matches:
            raise NotFound(f"no run is `{run_ref}`{did_you_mean(run_ref, _recent_ids_and_names(db))}")
        if len(matches) > 1:
            shown = ", ".join(f"{row.id} ({row.name})" for row in matches[:_MAX_SHOWN])
            more = ", …" if len(matches) > _MAX_SHOWN else ""
            raise UsageError(f"`{run_ref}` begins several run ids: {shown}{more}; write more of it")
        return to_run(matches[0])


def _last(db: Connection, run_ref: str, back: int) -> Run:
    row = db.execute(select_runs().order_by(runs.c.seq.desc()).offset(back).limit(1)).one_or_none()
    if row is None:
        raise NotFound(f"no run is `{run_ref}`: there are not so many runs yet")
    return to_run(row)


def _recent_ids_and_names(db: Connection) -> set[str]:
    recent = select(runs.c.id, runs.c.name).order_by(runs.c.seq.desc()).limit(1000)
    return {word for row in db.execute(recent) for word in row}
