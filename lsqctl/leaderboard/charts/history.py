"""Charts of a run's history: losses and accuracies by step, and its quantizers' step sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from lsqctl.events import Metric, QuantizerStats
from lsqctl.leaderboard.charts.chart import Axis, Chart, Point, Series
from lsqctl.leaderboard.charts.scales import drawable
from lsqctl.leaderboard.clean import clean

MOST_POINTS = 60
MOST_STEP_SIZES = 24  # points of each of many lines
_STEPS = Axis("optimizer step")
_LOSSES = (("epoch_loss", "train"), ("loss", "train"), ("loss", "val"))
_TOP1S = (("top1", "train"), ("top1", "val"))


def training_curves(metrics: Iterable[Metric], *, most: int = MOST_POINTS) -> list[Chart]:
    """Return the charts of Top-1 and of the loss by step, as far as the metrics have them."""
    found = by_name(metrics)
    losses = [key for key in _LOSSES if key in found]
    if losses[:2] == list(_LOSSES[:2]):
        losses.remove(_LOSSES[1])  # the mean over an epoch says it with less noise
    charts = [
        Chart("Top-1", _STEPS, Axis("Top-1 %"), _lines(found, _TOP1S, most), "Top-1 by step."),
        Chart("Loss", _STEPS, Axis("cross-entropy"), _lines(found, losses, most), "Loss by step."),
    ]
    return [chart for chart in charts if not chart.empty]


def step_sizes(stats: Iterable[QuantizerStats], *, most: int = MOST_STEP_SIZES) -> list[Chart]:
    """Return two charts, of weights and of inputs: each quantizer's step size, over its first.

    What a step size is depends on the layer's values; how far it moved can be compared.
    """
    trails: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for one in stats:
        trails[one.kind, one.name].append((float(one.step), one.step_size))
    charts = []
    for kind, title in (("weight", "Step sizes of weights"), ("input", "Step sizes of inputs")):
        series = [
            _relative(name, points, most)
            for (of_kind, name), points in trails.items()
            if of_kind == kind
        ]
        lines = tuple(one for one in series if len(one.points) > 1)
        about = f"{len(lines)} quantizers; 1 is the step size right after calibration."
        charts.append(Chart(title, _STEPS, Axis("step size / first step size"), lines, about))
    return [chart for chart in charts if not chart.empty]


def by_name(metrics: Iterable[Metric]) -> dict[tuple[str, str], list[Point]]:
    """Return the points of each metric, by its name and split, in the order of steps."""
    found: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for metric in metrics:
        if drawable(metric.value, _STEPS):
            found[metric.name, metric.split].append((float(metric.step), metric.value))
    return {key: sorted(points) for key, points in found.items()}


def thinned(points: Sequence[Point], most: int) -> tuple[Point, ...]:
    """Return ``most`` points at most that show the same shape; the first and the last stay.

    Of each stretch the point stays that makes the largest triangle with the one before and the
    middle of the next stretch (Steinarsson 2013, Largest-Triangle-Three-Buckets).
    """
    if len(points) <= most:
        return tuple(points)
    edges = [1 + (len(points) - 2) * n // (most - 2) for n in range(most - 1)]
    kept = [points[0]]
    for number, (start, end) in enumerate(pairwise(edges)):
        following = points[end : edges[number + 2]] if number + 2 < len(edges) else points[-1:]
        x = sum(point[0] for point in following) / len(following)
        y = sum(point[1] for point in following) / len(following)
        kept.append(max(points[start:end], key=lambda point: _triangle(kept[-1], point, (x, y))))
    return (*kept, points[-1])


def _triangle(a: Point, b: Point, c: Point) -> float:
    return abs((a[0] - c[0]) * (b[1] - a[1]) - (a[0] - b[0]) * (c[1] - a[1]))


def _lines(
    found: Mapping[tuple[str, str], Sequence[Point]],
    keys: Iterable[tuple[str, str]],
    most: int,
) -> tuple[Series, ...]:
    shown = [key for key in keys if key in found]
    return tuple(
        Series(clean(key[1]), thinned(found[key], most), "curve", tone=tone)
        for tone, key in enumerate(shown)
    )


def _relative(name: str, points: Sequence[Point], most: int) -> Series:
    ordered = sorted(points)
    first = ordered[0][1]
    values = [(x, y / first) for x, y in ordered if first > 0 and drawable(y, _STEPS)]
    layer = name.removesuffix(".weight_quantizer").removesuffix(".input_quantizer")
    return Series(clean(layer), thinned(values, most), "curve")


def several_runs(
    runs: Mapping[str, Sequence[Metric]], metric: str, split: str, *, most: int = 400
) -> Chart:
    """Return one metric of several runs by step, a line a run, by the name to show."""
    lines = [
        Series(clean(name), thinned(found.get((metric, split), []), most), "curve", tone=tone)
        for tone, (name, points) in enumerate(runs.items())
        if (found := by_name(points))
    ]
    unit = " %" if metric in ("top1", "top5") else ""
    title = f"{clean(metric)}, {clean(split)}"
    return Chart(title, _STEPS, Axis(f"{clean(metric)}{unit}"), tuple(lines))
