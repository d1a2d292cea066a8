"""Charts of the board and of runs, for a paper or a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.atomic_write import check_overwrite, write_atomic
from lsqctl.errors import NotFound, UsageError
from lsqctl.events import Metric
from lsqctl.leaderboard.charts.accuracy import (
    accuracy_by_bits,
    accuracy_by_key,
    network_accuracy_by_cost,
)
from lsqctl.leaderboard.charts.chart import Chart
from lsqctl.leaderboard.charts.history import metric_by_run, step_size_charts
from lsqctl.leaderboard.rank import Cost, rank
from lsqctl.services.board import BoardSelection, build_board
from lsqctl.services.diff import flatten
from lsqctl.services.run_control import resolve_sweep
from lsqctl.settings import Settings
from lsqctl.text import did_you_mean

if TYPE_CHECKING:
    from lsqctl.leaderboard.board import Table
    from lsqctl.store import Store

EVALUATION_SPLIT = "eval"
_NO_COST = "no row of it has a size and bit operations: only finished local runs have"


def plot_cost(
    store: Store, cost: Cost, *, dataset: str | None = None, settings: Settings | None = None
) -> list[Chart]:
    """Return Top-1 against a cost, a line a network.  Raises NotFound where nothing is to draw."""
    table = _table(store, dataset, settings)
    chart = network_accuracy_by_cost(table, cost)
    if chart.empty:
        raise NotFound(f"nothing to draw for {table.dataset}: {_NO_COST}")
    return [chart]


def plot_bits(
    store: Store, *, dataset: str | None = None, settings: Settings | None = None
) -> list[Chart]:
    """Return Top-1 against bits, a chart a network.  Raises NotFound."""
    table = _table(store, dataset, settings)
    charts = accuracy_by_bits(table, max_charts=6)
    if not charts:
        raise NotFound(f"nothing to draw for {table.dataset}: no quantized row")
    return charts


def plot_curves(store: Store, run_refs: Sequence[str], metric: str, split: str) -> list[Chart]:
    """Return one metric of several runs by step; ``eval`` is each one's evaluation split.

    Raises NotFound, with the nearest metric.
    """
    runs = [store.runs.resolve(run_ref) for run_ref in run_refs]
    points = {f"{run.name} {run.id}": _points(store, run.id, metric, split) for run in runs}
    if not any(points.values()):
        metric_names = {
            f"{summary.name}/{summary.split}"
            for run in runs
            for summary in store.metrics.summaries(run.id)
        }
        listed = (
            f"; there are {', '.join(sorted(metric_names))}"
            if metric_names
            else "; nothing was recorded"
        )
        hint = (
            did_you_mean(metric, {name.partition("/")[0] for name in metric_names})
            if split == EVALUATION_SPLIT
            else did_you_mean(f"{metric}/{split}", metric_names)
        )
        raise NotFound(f"no {metric}/{split} was recorded{hint}{listed}")
    return [metric_by_run(points, metric, split)]


def _points(store: Store, run_id: str, metric: str, split: str) -> list[Metric]:
    if split != EVALUATION_SPLIT:
        return store.metrics.points(run_id, metric, split)
    return [
        replace(point, split=EVALUATION_SPLIT)
        for point in store.metrics.points(run_id, metric)
        if point.split != "train"
    ]


def plot_step_sizes(store: Store, run_ref: str) -> list[Chart]:
    """Return the step sizes of a run, of weights and of inputs.  Raises NotFound."""
    run = store.runs.resolve(run_ref)
    charts = step_size_charts(store.metrics.quantizer_stats(run.id))
    if not charts:
        raise NotFound(f"run {run.id} has no step sizes: it is not quantized, or has no epoch yet")
    return charts


def plot_ablation(
    store: Store, key: str, *, dataset: str | None = None, sweep: str | None = None
) -> list[Chart]:
    """Return Top-1 by the value of a recipe's key, over all runs or a sweep's.

    Runs in full precision are left out where the key is of `quant` and they do not use it. Raises
    NotFound.
    """
    rows = store.results.board_rows()
    if sweep is not None:
        run_ids = set(store.sweeps.run_ids(resolve_sweep(store, sweep) or ""))
        rows = [row for row in rows if row.run_id in run_ids]
    tables = [table for table in rank(rows, dataset=dataset).tables if table.counts.groups]
    if not tables:
        raise NotFound("no finished run to draw; `lsqctl runs ls` shows what there is")
    recipes = {
        row.recipe_sha256 or "": store.runs.detail(row.best_run or "").recipe
        for row in tables[0].rows
        if not (row.is_full_precision and _is_of_quantizers(key))
    }
    values = {sha: _value_at(recipe, key) for sha, recipe in recipes.items()}
    if all(value is None for value in values.values()):
        recipe_keys = sorted(
            {
                name
                for recipe in recipes.values()
                for name, value in flatten(recipe).items()
                if value is not None
            }
        )
        raise NotFound(f"no recipe has a value for `{key}`{did_you_mean(key, recipe_keys)}")
    return [accuracy_by_key(tables[0].rows, key, values, dataset=tables[0].dataset)]


def write_plot(charts: Sequence[Chart], path: Path, *, force: bool = False) -> int:
    """Write charts to a .svg, .pdf or .png file; return the number of bytes.  Raises UsageError."""
    from lsqctl.leaderboard.charts.matplotlib_backend import PLOT_ENDINGS, draw_file

    ending = path.suffix.removeprefix(".").lower()
    if ending not in PLOT_ENDINGS:
        raise UsageError(f"{path}: a plot is .svg, .pdf or .png, not `{path.suffix or path}`")
    check_overwrite(path, force=force)
    data = draw_file(charts, ending)
    write_atomic(path, data, force=force)
    return len(data)


def _table(store: Store, dataset: str | None, settings: Settings | None) -> Table:
    """Return the table of one dataset; that with local runs where none is named."""
    tables = build_board(store, BoardSelection(dataset), settings=settings).tables
    if not tables:
        raise NotFound(f"nothing is on the board of {dataset or 'any dataset'}")
    return tables[0]


def _is_of_quantizers(key: str) -> bool:
    return key.startswith("quant.") and not key.endswith("_bits")


def _value_at(recipe: Mapping[str, object], key: str) -> object:
    value = flatten(recipe).get(key)
    return value if isinstance(value, str | int | float | bool) else None
