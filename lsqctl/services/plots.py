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
from lsqctl.text import did_you_mean, sanitize

if TYPE_CHECKING:
    from lsqctl.leaderboard.board import Table
    from lsqctl.store import Store

EVALUATION_SPLIT = "eval"
_MAX_NETWORKS = 6  # of a dataset, side by side
_NO_COST = "no row of it has a size and bit operations: only finished local runs have"


def plot_cost(
    store: Store, cost: Cost, *, dataset: str | None = None, settings: Settings | None = None
) -> list[Chart]:
    """Return Top-1 against a cost, a chart a dataset, a line a network.

    Raises NotFound where nothing is to draw.
    """
    tables = _tables(store, dataset, settings)
    charts = [
        chart for table in tables if not (chart := network_accuracy_by_cost(table, cost)).empty
    ]
    if not charts:
        raise NotFound(f"nothing to draw for {_names(tables)}: {_NO_COST}")
    return charts


def plot_bits(
    store: Store, *, dataset: str | None = None, settings: Settings | None = None
) -> tuple[list[Chart], str]:
    """Return Top-1 against bits, a chart a dataset and network; and which are left out, in words.

    Raises NotFound.
    """
    tables = _tables(store, dataset, settings)
    charts: list[Chart] = []
    left_out = []
    for table in tables:
        drawn = accuracy_by_bits(table, max_charts=_MAX_NETWORKS)
        if (n_networks := len(accuracy_by_bits(table, max_charts=len(table.rows)))) > len(drawn):
            left_out.append(f"{len(drawn)} of {n_networks} networks of {table.dataset}")
        prefix = f"{sanitize(table.dataset)}: " if len(tables) > 1 else ""
        charts += [replace(chart, title=f"{prefix}{chart.title}") for chart in drawn]
    if not charts:
        raise NotFound(f"nothing to draw for {_names(tables)}: no quantized row")
    if not left_out:
        return charts, ""
    return charts, f"{', '.join(left_out)}, those with the most rows; `leaderboard --html` has more"


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
    """Return Top-1 by the value of a recipe's key, a chart a dataset, over all runs or a sweep's.

    Runs in full precision are left out where the key is of `quant` and they do not use it. Raises
    NotFound.
    """
    rows = store.results.board_rows()
    if sweep is not None:
        run_ids = set(store.sweeps.run_ids(resolve_sweep(store, sweep) or ""))
        rows = [row for row in rows if row.run_id in run_ids]
    ranked = rank(rows, dataset=dataset).tables
    tables = [_named(table) for table in ranked if table.counts.groups]
    if not tables:
        raise NotFound("no finished run to draw; `lsqctl runs ls` shows what there is")
    recipes = {
        row.recipe_sha256 or "": store.runs.detail(row.best_run or "").recipe
        for table in tables
        for row in table.rows
        if not (row.is_full_precision and _is_of_quantizers(key))
    }
    values = {sha: _value_at(recipe, key) for sha, recipe in recipes.items()}
    if all(value is None for value in values.values()):
        raise NotFound(f"no recipe has a value for `{key}`{did_you_mean(key, _keys_of(recipes))}")
    charts = (accuracy_by_key(table.rows, key, values, dataset=table.dataset) for table in tables)
    return [chart for chart in charts if not chart.empty]


def _keys_of(recipes: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return the keys that a recipe has a value for."""
    values = (item for recipe in recipes.values() for item in flatten(recipe).items())
    return sorted({name for name, value in values if value is not None})


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


def _tables(store: Store, dataset: str | None, settings: Settings | None) -> list[Table]:
    """Return the tables of a dataset, or of all with local runs; without any, the first."""
    tables = build_board(store, BoardSelection(dataset), settings=settings).tables
    if not tables:
        raise NotFound(f"nothing is on the board of {dataset or 'any dataset'}")
    return list(map(_named, [table for table in tables if table.counts.groups] or tables[:1]))


def _named(table: Table) -> Table:
    """Return a table whose dataset is called apart from the same one with other images."""
    return replace(table, dataset=" ".join((table.dataset, *map(" ".join, table.group))))


def _names(tables: Sequence[Table]) -> str:
    return ", ".join(table.dataset for table in tables)


def _is_of_quantizers(key: str) -> bool:
    return key.startswith("quant.") and not key.endswith("_bits")


def _value_at(recipe: Mapping[str, object], key: str) -> object:
    value = flatten(recipe).get(key)
    return value if isinstance(value, str | int | float | bool) else None
