"""Charts of the board and of runs, for a paper or a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsqctl.api.board import board
from lsqctl.api.outfile import check_free, write_whole
from lsqctl.api.sweeps import sweep_named
from lsqctl.errors import NotFound, UsageError, did_you_mean
from lsqctl.leaderboard.charts.accuracy import Cost, against_bits
from lsqctl.leaderboard.charts.chart import Chart
from lsqctl.leaderboard.charts.comparing import ablation, networks_against_cost
from lsqctl.leaderboard.charts.history import several_runs, step_sizes
from lsqctl.leaderboard.rank import rank
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.leaderboard.board import Table
    from lsqctl.store import Store

_NO_COST = "no row of it has a size and bit operations: only finished own runs have"


def plot_cost(
    store: Store, cost: Cost, *, dataset: str | None = None, settings: Settings | None = None
) -> list[Chart]:
    """Return Top-1 against a cost, a line a network.  Raises NotFound where nothing is to draw."""
    table = _table(store, dataset, settings)
    chart = networks_against_cost(table, cost)
    if chart.empty:
        raise NotFound(f"nothing to draw for {table.dataset}: {_NO_COST}")
    return [chart]


def plot_bits(
    store: Store, *, dataset: str | None = None, settings: Settings | None = None
) -> list[Chart]:
    """Return Top-1 against bits, a chart a network.  Raises NotFound."""
    table = _table(store, dataset, settings)
    charts = against_bits(table, most=6)
    if not charts:
        raise NotFound(f"nothing to draw for {table.dataset}: no quantized row")
    return charts


def plot_curves(store: Store, refs: Sequence[str], metric: str, split: str) -> list[Chart]:
    """Return one metric of several runs by step.  Raises NotFound, with the nearest metric."""
    runs = [store.resolve(ref) for ref in refs]
    points = {f"{run.name} {run.id}": store.metrics(run.id, metric, split) for run in runs}
    if not any(points.values()):
        known = {f"{one.name}/{one.split}" for run in runs for one in store.summaries(run.id)}
        listed = f"; there are {', '.join(sorted(known))}" if known else "; nothing was recorded"
        guess = did_you_mean(f"{metric}/{split}", known)
        raise NotFound(f"no {metric}/{split} was recorded{guess}{listed}")
    return [several_runs(points, metric, split)]


def plot_steps(store: Store, ref: str) -> list[Chart]:
    """Return the step sizes of a run, of weights and of inputs.  Raises NotFound."""
    run = store.resolve(ref)
    charts = step_sizes(store.quantizer_stats(run.id))
    if not charts:
        raise NotFound(f"run {run.id} has no step sizes: it is not quantized, or has no epoch yet")
    return charts


def plot_ablation(
    store: Store, key: str, *, dataset: str | None = None, sweep: str | None = None
) -> list[Chart]:
    """Return Top-1 by the value of a recipe's key, over all runs or a sweep's.  Raises NotFound."""
    rows = store.board_rows()
    if sweep is not None:
        wanted = set(store.sweep_run_ids(sweep_named(store, sweep) or ""))
        rows = [row for row in rows if row.run_id in wanted]
    tables = [one for one in rank(rows, dataset=dataset).tables if one.counts.groups]
    if not tables:
        raise NotFound("no finished run to draw; `lsqctl runs ls` shows what there is")
    recipes = {
        row.recipe_sha256 or "": store.detail(row.best_run or "").recipe for row in tables[0].rows
    }
    values = {sha: _value(recipe, key) for sha, recipe in recipes.items()}
    if all(value is None for value in values.values()):
        known = sorted({name for recipe in recipes.values() for name in _keys(recipe)})
        raise NotFound(f"no recipe has a value for `{key}`{did_you_mean(key, known)}")
    return [ablation(tables[0].rows, key, values, dataset=tables[0].dataset)]


def write_plot(charts: Sequence[Chart], path: Path, *, force: bool = False) -> int:
    """Write charts to a .svg, .pdf or .png file; return the number of bytes.  Raises UsageError."""
    from lsqctl.leaderboard.charts.paper import ENDINGS, draw

    ending = path.suffix.removeprefix(".").lower()
    if ending not in ENDINGS:
        raise UsageError(f"{path}: a plot is .svg, .pdf or .png, not `{path.suffix or path}`")
    check_free(path, force=force)
    data = draw(charts, ending)
    write_whole(path, data, force=force)
    return len(data)


def _table(store: Store, dataset: str | None, settings: Settings | None) -> Table:
    """Return the table of one dataset; that with own runs where none is named."""
    tables = board(store, dataset=dataset, settings=settings).tables
    if not tables:
        raise NotFound(f"nothing is on the board of {dataset or 'any dataset'}")
    return tables[0]


def _value(recipe: Mapping[str, Any], key: str) -> object:
    found: Any = recipe
    for part in key.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found if isinstance(found, str | int | float | bool) else None


def _keys(recipe: Mapping[str, Any], before: str = "") -> list[str]:
    found = []
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            found += _keys(value, f"{before}{name}.")
        elif value is not None:
            found.append(f"{before}{name}")
    return found
