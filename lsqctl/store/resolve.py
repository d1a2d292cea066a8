"""Find the run that a person means: an id, the beginning of one, a name, or ``@last``."""

from __future__ import annotations

import re

from sqlalchemy import Connection, select

from lsqctl.errors import NotFound, UsageError, did_you_mean
from lsqctl.run import Run
from lsqctl.store.base import Base
from lsqctl.store.database import reads
from lsqctl.store.rows import select_runs, to_run
from lsqctl.store.tables import runs

_LAST = re.compile(r"@last(?:~(\d{1,9}))?")
_SHOWN = 5


class Resolves(Base):
    """Resolving references."""

    @reads
    def resolve(self, db: Connection, ref: str) -> Run:
        """Return the run of a full id, an exact name (its newest run), a unique prefix of an id,
        ``@last``, or ``@last~N`` (N before it).

        Raises NotFound, naming what is near, and UsageError for a prefix of several ids.
        """
        if match := _LAST.fullmatch(ref):
            return _last(db, ref, int(match[1] or 0))
        newest = select_runs().order_by(runs.c.seq.desc())
        for exact in (runs.c.id == ref.lower(), runs.c.name == ref):
            if row := db.execute(newest.where(exact).limit(1)).one_or_none():
                return to_run(row)
        start = runs.c.id.startswith(ref.lower(), autoescape=True)
        found = db.execute(newest.where(start).limit(_SHOWN + 1)).all() if ref else []
        if not found:
            raise NotFound(f"no run is `{ref}`{did_you_mean(ref, _known(db))}")
        if len(found) > 1:
            shown = ", ".join(f"{row.id} ({row.name})" for row in found[:_SHOWN])
            more = ", …" if len(found) > _SHOWN else ""
            raise UsageError(f"`{ref}` begins several run ids: {shown}{more}; write more of it")
        return to_run(found[0])


def _last(db: Connection, ref: str, back: int) -> Run:
    row = db.execute(select_runs().order_by(runs.c.seq.desc()).offset(back).limit(1)).one_or_none()
    if row is None:
        raise NotFound(f"no run is `{ref}`: there are not so many runs yet")
    return to_run(row)


def _known(db: Connection) -> set[str]:
    recent = select(runs.c.id, runs.c.name).order_by(runs.c.seq.desc()).limit(1000)
    return {word for row in db.execute(recent) for word in row}
