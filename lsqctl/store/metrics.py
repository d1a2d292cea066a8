"""Metric points and quantizer statistics: in batches under a fence, cut on resume."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields, replace
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, select, update

from lsqctl.events import Measurement, Metric, MetricSummary, Progress, QuantizerStats
from lsqctl.failpoint import failpoint
from lsqctl.run import Lease
from lsqctl.store.database import StorePart, read_tx, write_tx
from lsqctl.store.dialects import decode_float, encode_float, now, upsert
from lsqctl.store.rows import is_live
from lsqctl.store.tables import (
    AnyRow,
    attempts,
    checkpoints,
    events,
    live_runs,
    metric_points,
    metric_summaries,
    quantizer_stats,
)
from lsqctl.store.transitions import record_event, require_lease

_STATS_FIELDS = [field.name for field in fields(QuantizerStats)]


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
    """Return what ``_pack_stats`` was given; fields added later keep their default."""
    columns = json.loads(zlib.decompress(packed))
    names = [name for name in _STATS_FIELDS if name in columns]
    rows = zip(*(columns[name] for name in names), strict=True)
    return [QuantizerStats(**dict(zip(names, row, strict=True))) for row in rows]


_SMALLER_IS_BETTER = re.compile(r"loss|error|seconds|bytes|time")
_SummaryKey = tuple[str, str]  # name, split


def is_better(name: str, value: float, other: float) -> bool:
    """Return whether ``value`` of this metric beats ``other``; any number beats NaN.

    Losses, errors, times and sizes are better when small, all else when large.
    """
    if math.isnan(value) or math.isnan(other):
        return not math.isnan(value)
    return value < other if _SMALLER_IS_BETTER.search(name) else value > other


def training_start(db: Connection, run_id: str) -> tuple[int | None, datetime | None]:
    """Return the step that the last attempt trains from, and since when; None before it is set up.

    Of a run in the trash nothing is told.
    """
    is_last = events.c.run_id == live_runs.c.id, events.c.attempt == live_runs.c.attempt
    started = select(events.c.at, events.c.detail).where(
        live_runs.c.id == run_id, *is_last, events.c.kind == "training"
    )
    row = db.execute(started.limit(1)).one_or_none()
    return (int(row.detail.rpartition(" ")[2]), row.at) if row else (None, None)


class Metrics(StorePart):
    """Metrics and quantizer statistics: written under a lease, and read."""

    @write_tx
    def log(
        self,
        db: Connection,
        lease: Lease,
        measured: Sequence[Measurement],
        progress: Progress | None = None,
    ) -> None:
        """Store a batch; a point that is there already is replaced.  Raises LeaseLost."""
        require_lease(db, lease, **_progress_values(progress))
        insert_measured(db, lease, measured)
        failpoint("metrics.before-commit")

    @write_tx
    def resume_at(self, db: Connection, lease: Lease, step: int | None) -> None:
        """Forget what lies after ``step``: points, quantizers' numbers, checkpoints; None: all.

        Raises LeaseLost.
        """
        last_step = -1 if step is None else step
        require_lease(db, lease, step=max(last_step, 0))
        for table in (metric_points, quantizer_stats, checkpoints):
            db.execute(
                delete(table).where(table.c.run_id == lease.run_id, table.c.step > last_step)
            )
        _rebuild_summaries(db, lease.run_id)
        db.execute(
            update(attempts)
            .where(attempts.c.run_id == lease.run_id, attempts.c.number == lease.attempt)
            .values(resumed_step=step)
        )
        where = "from scratch" if step is None else f"at step {step}"
        record_event(db, lease.run_id, "resumed", lease=lease, detail=where)
        failpoint("resume.before-commit")

    @write_tx
    def start_at(self, db: Connection, lease: Lease, step: int) -> None:
        """Note that an attempt is set up and takes its first step after this one; once each.

        Raises LeaseLost.
        """
        require_lease(db, lease)
        record_event(db, lease.run_id, "training", lease=lease, detail=f"from step {step}")

    @read_tx
    def training_start(self, db: Connection, run_id: str) -> tuple[int, float] | None:
        """Return the step that a run's last attempt trains from, and for how many seconds it does.

        None before it is set up.
        """
        step, since = training_start(db, run_id)
        if step is None or since is None:
            return None
        moment: datetime = db.execute(select(now())).scalar_one()
        return step, (moment - since).total_seconds()

    @read_tx
    def points(
        self, db: Connection, run_id: str, name: str | None = None, split: str | None = None
    ) -> list[Metric]:
        """Return a run's points by name, split and step, perhaps of one name or split only."""
        if not is_live(db, run_id):
            return []
        filters = {"name": name, "split": split}
        where = [metric_points.c[key] == value for key, value in filters.items() if value]
        return _points(db, run_id, *where)

    @read_tx
    def summaries(self, db: Connection, run_id: str) -> list[MetricSummary]:
        """Return the last and the best of each of a run's metrics, by name and split."""
        return list(_summaries(db, run_id).values()) if is_live(db, run_id) else []

    @read_tx
    def quantizer_stats(self, db: Connection, run_id: str) -> list[QuantizerStats]:
        """Return a run's, oldest epoch first and in the network's order within one."""
        if not is_live(db, run_id):
            return []
        columns = quantizer_stats.c
        query = select(columns.stats).where(columns.run_id == run_id).order_by(columns.step)
        return [stats for packed in db.scalars(query) for stats in _unpack_stats(packed)]


def _progress_values(progress: Progress | None) -> dict[str, int]:
    """Return the columns of a run that a Progress sets."""
    if progress is None:
        return {}
    return {
        "step": progress.step,
        "total_steps": progress.total_steps,
        "epoch": progress.epoch,
        "epochs": progress.epochs,
    }


def insert_measured(db: Connection, lease: Lease, measured: Sequence[Measurement]) -> None:
    """Store what was measured; the caller holds the run's row."""
    insert_stats(db, lease, [item for item in measured if isinstance(item, QuantizerStats)])
    _insert_metrics(db, lease, [item for item in measured if isinstance(item, Metric)])


def _insert_metrics(db: Connection, lease: Lease, metrics: Sequence[Metric]) -> None:
    """Store points and bring the summaries up to date."""
    points = {(m.name, m.split, m.step): m for m in metrics}
    upsert(db, metric_points, [_to_point_row(lease, metric) for metric in points.values()])
    previous = _summaries(db, lease.run_id)
    if any(
        m.step <= previous[key].last_step for m in metrics if (key := (m.name, m.split)) in previous
    ):
        # a point may have been replaced: start from all of them
        _rebuild_summaries(db, lease.run_id)
        return
    _write_summaries(db, lease.run_id, summarize(points.values(), previous))


def summarize(
    metrics: Iterable[Metric], previous: Mapping[_SummaryKey, MetricSummary]
) -> list[MetricSummary]:
    """Return the summaries after ``metrics``, which come after all that ``previous`` has seen."""
    summaries: dict[_SummaryKey, MetricSummary] = {}
    for metric in sorted(metrics, key=lambda m: m.step):
        key = metric.name, metric.split
        summary = MetricSummary(*key, *(metric.value, metric.step) * 2)
        before = summaries.get(key) or previous.get(key)
        if before and not is_better(metric.name, metric.value, before.best):
            summary = replace(summary, best=before.best, best_step=before.best_step)
        summaries[key] = summary
    return list(summaries.values())


def _rebuild_summaries(db: Connection, run_id: str) -> None:
    db.execute(delete(metric_summaries).where(metric_summaries.c.run_id == run_id))
    _write_summaries(db, run_id, summarize(_points(db, run_id), {}))


def _points(db: Connection, run_id: str, *where: ColumnElement[bool]) -> list[Metric]:
    columns = metric_points.c
    query = select(columns.name, columns.split, columns.step, columns.value, columns.kind)
    query = query.where(columns.run_id == run_id, *where)
    rows = db.execute(query.order_by(columns.name, columns.split, columns.step))
    return [Metric(r.name, r.split, r.step, decode_float(r.value, r.kind)) for r in rows]


def _summaries(db: Connection, run_id: str) -> dict[_SummaryKey, MetricSummary]:
    columns = metric_summaries.c
    query = select(metric_summaries).where(columns.run_id == run_id)
    rows = db.execute(query.order_by(columns.name, columns.split))
    return {(row.name, row.split): _to_summary(row) for row in rows}


def _to_summary(row: AnyRow) -> MetricSummary:
    return MetricSummary(
        name=row.name,
        split=row.split,
        last=decode_float(row.last_value, row.last_kind),
        last_step=row.last_step,
        best=decode_float(row.best_value, row.best_kind),
        best_step=row.best_step,
    )


def _write_summaries(db: Connection, run_id: str, summaries: Sequence[MetricSummary]) -> None:
    rows = []
    for summary in summaries:
        last, best = encode_float(summary.last), encode_float(summary.best)
        rows.append(
            {
                "run_id": run_id,
                "name": summary.name,
                "split": summary.split,
                "last_value": last[0],
                "last_kind": last[1],
                "last_step": summary.last_step,
                "best_value": best[0],
                "best_kind": best[1],
                "best_step": summary.best_step,
            }
        )
    upsert(db, metric_summaries, rows)


def _to_point_row(lease: Lease, metric: Metric) -> dict[str, object]:
    value, kind = encode_float(metric.value)
    return {
        "run_id": lease.run_id,
        "name": metric.name,
        "split": metric.split,
        "step": metric.step,
        "value": value,
        "kind": kind,
        "fence": lease.fence,
    }
