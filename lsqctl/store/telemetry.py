"""How each quantizer stood at each epoch's end: one packed row an epoch, written under a fence."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields

from sqlalchemy import Connection, select

from lsqctl.facts import QuantizerStats
from lsqctl.run import Lease
from lsqctl.store.base import StorePart
from lsqctl.store.database import read_tx
from lsqctl.store.tables import quantizer_stats
from lsqctl.store.upsert import upsert

_STATS_FIELDS = [field.name for field in fields(QuantizerStats)]


class QuantizerStatsReads(StorePart):
    """Reading what training saw of its quantizers."""

    @read_tx
    def quantizer_stats(self, db: Connection, run_id: str) -> list[QuantizerStats]:
        """Return a run's, oldest epoch first and in the network's order within one."""
        columns = quantizer_stats.c
        query = select(columns.stats).where(columns.run_id == run_id).order_by(columns.step)
        return [stats for packed in db.scalars(query) for stats in _unpack_stats(packed)]


def insert_stats(db: Connection, lease: Lease, stats: Iterable[QuantizerStats]) -> None:
    """Store a batch; one of a name and step that is there already is replaced.

    The caller holds the run's row. A batch may hold only some of an epoch's quantizers.
    """
    steps: defaultdict[int, dict[str, QuantizerStats]] = defaultdict(dict)
    for entry in stats:
        steps[entry.step][entry.name] = entry
    columns = quantizer_stats.c
    for step, new in steps.items():
        where = columns.run_id == lease.run_id, columns.step == step
        packed = db.scalar(select(columns.stats).where(*where))
        before = {entry.name: entry for entry in _unpack_stats(packed)} if packed else {}
        row = {
            "run_id": lease.run_id,
            "step": step,
            "fence": lease.fence,
            "stats": _pack_stats([*(before | new).values()]),
        }
        upsert(db, quantizer_stats, [row])


def _pack_stats(stats: Sequence[QuantizerStats]) -> bytes:
    """Return {field: [a value a quantizer]} as compressed JSON: a fifth of the plain text."""
    columns = dict(zip(_STATS_FIELDS, zip(*map(astuple, stats), strict=True), strict=True))
    return zlib.compress(json.dumps(columns, separators=(",", ":")).encode(), 9)


def _unpack_stats(packed: bytes) -> list[QuantizerStats]:
    """Return what ``_pack_stats`` was given; fields that a later version added keep their default."""
    columns = json.loads(zlib.decompress(packed))
    names = [name for name in _STATS_FIELDS if name in columns]
    rows = zip(*(columns[name] for name in names), strict=True)
    return [QuantizerStats(**dict(zip(names, row, strict=True))) for row in rows]
