"""Where runs stand, in as few columns as one who waits for them needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from lsqctl.run import EndReason, RunState
from lsqctl.store.base import Base
from lsqctl.store.database import reads
from lsqctl.store.rows import chunks
from lsqctl.store.sight import cells_of
from lsqctl.store.tables import runs


@dataclass(frozen=True, slots=True)
class Standing:
    """What `wait` needs to know of a run."""

    id: str
    name: str
    seed: int
    state: RunState
    reason: EndReason | None
    message: str


class Standings(Base):
    """Asking how runs stand."""

    @reads
    def standing(self, db: Connection, ids: Sequence[str]) -> list[Standing]:
        """Return where these runs stand, in the order given; one that was removed is left out."""
        columns = [runs.c[name] for name in ("id", "name", "seed", "state", "reason", "message")]
        found = {
            row.id: Standing(
                row.id,
                row.name,
                row.seed,
                RunState(row.state),
                EndReason(row.reason) if row.reason else None,
                row.message,
            )
            for some in chunks(ids)
            for row in db.execute(select(*columns).where(runs.c.id.in_(some)))
        }
        return [found[run_id] for run_id in ids if run_id in found]

    @reads
    def sweep_run_ids(self, db: Connection, sweep: str) -> list[str]:
        """Return the ids of a sweep's runs, in the order they were submitted."""
        query = select(runs.c.id).where(runs.c.id.in_(cells_of(sweep))).order_by(runs.c.seq)
        return list(db.scalars(query))
