"""The metric points of runs as a file for other tools: CSV, JSON or Parquet, a row a point."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Literal

from lsqctl.errors import DataError, UsageError
from lsqctl.leaderboard.formats.json_text import json_value
from lsqctl.services.run_control import resolve_runs

if TYPE_CHECKING:
    from lsqctl.store import Store

SeriesFormat = Literal["csv", "json", "parquet"]


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One measured number of one run; ``value`` may be NaN or infinite."""

    run: str
    run_name: str
    seed: int
    name: str
    split: str
    step: int
    value: float


_COLUMNS = tuple(field.name for field in fields(MetricPoint))


def metric_points(
    store: Store, run_refs: Sequence[str], *, name: str | None = None, split: str | None = None
) -> list[MetricPoint]:
    """Return the points of runs, by run, name, split and step; perhaps of one name or split.

    Raises NotFound for a run, and UsageError for a name or split that none of them has.
    """
    points = [
        MetricPoint(run.id, run.name, run.seed, point.name, point.split, point.step, point.value)
        for run in resolve_runs(store, run_refs)
        for point in store.metrics.points(run.id)
    ]
    for what, wanted in (("name", name), ("split", split)):
        known = sorted({getattr(point, what) for point in points})
        if wanted is not None and wanted not in known:
            raise UsageError(
                f"no metric has the {what} `{wanted}`; there are {', '.join(known) or 'none yet'}"
            )
        points = [point for point in points if wanted in (None, getattr(point, what))]
    return points


def write_points(points: Sequence[MetricPoint], output_format: SeriesFormat) -> bytes:
    """Return points in a format; CSV has one header and the shortest floats that read back."""
    match output_format:
        case "csv":
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerows([_COLUMNS, *map(astuple, points)])
            return text.getvalue().encode()
        case "json":
            rows = [
                dict(zip(_COLUMNS, map(json_value, astuple(point)), strict=True))
                for point in points
            ]
            return (json.dumps({"points": rows}, indent=1, ensure_ascii=False) + "\n").encode()
        case "parquet":
            return _parquet(points)


def _parquet(points: Sequence[MetricPoint]) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            "Parquet needs pyarrow: pip install 'lsqctl[parquet]', or say --format csv"
        ) from None
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    types = (str, str, int, str, str, int, float)
    schema = pyarrow.schema(
        [(name, kinds[kind]) for name, kind in zip(_COLUMNS, types, strict=True)]
    )
    columns = {name: [getattr(point, name) for point in points] for name in _COLUMNS}
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns, schema=schema), sink)
    return bytes(sink.getvalue().to_pybytes())
