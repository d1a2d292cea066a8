"""Where runs stand, in as few columns as one who waits for them needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from lsqctl.run import EndReason, RunState
from lsqctl.store.base import StorePart
from lsqctl.store.database import read_tx
from lsqctl.store.rows import batches
from lsqctl.store.sight import select_sweep_run_ids
from lsqctl.store.tables import runs


@dataclass(frozen=True, slots=True)
class RunStatus:
    """What `wait` needs to know of a run."""

    id: str
    name: str
    seed: int
    state: RunState
    reason: EndReason | None
    message: str


class RunStatuses(StorePart):
    """Asking how runs stand."""

    @read_tx
    def statuses(self, db: Connection, ids: Sequence[str]) -> list[RunStatus]:
        """Return where these runs stand, in the order given; one that was removed is left out."""
        columns = [runs.c[name] for name in ("id", "name", "seed", "state", "reason", "message")]
        status_by_id = {
            row.id: RunStatus(
                row.id,
                row.name,
                row.seed,
                RunState(row.state),
                EndReason(row.reason) if row.reason else None,
                row.message,
            )
            for batch in batches(ids)
            for row in db.execute(select(*columns).where(runs.c.id.in_(batch)))
        }
        return [status_by_id[run_id] for run_id in ids if run_id in status_by_id]

    @read_tx
    def sweep_run_ids(self, db: Connection, sweep: str) -> list[str]:
        """Return the ids of a sweep's runs, in the order they were submitted."""
        query = select(runs.c.id).where(runs.c.id.in_(select_sweep_run_ids(sweep))).order_by(runs.c.seq)
        return list(db.scalars(query))
