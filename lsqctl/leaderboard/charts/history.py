"""Charts of a run's history: losses and accuracies by step, and its quantizers' step sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from lsqctl.events import Metric, QuantizerStats
from lsqctl.leaderboard.charts.chart import Axis, Chart, Point, Series, is_drawable
from lsqctl.text import sanitize

MAX_POINTS = 60
MAX_STEP_SIZE_POINTS = 24  # points of each of many lines
_STEP_AXIS = Axis("optimizer step")
_TRAINING_LOSSES = (("epoch_loss", "train"), ("loss", "train"))


def training_curves(metrics: Iterable[Metric], *, max_points: int = MAX_POINTS) -> list[Chart]:
    """Return the charts of Top-1 and of the loss by step, as far as the metrics have them."""
    points_of = points_by_metric(metrics)
    # the mean over an epoch says it with less noise than single steps
    training_losses = [key for key in _TRAINING_LOSSES if key in points_of][:1]
    losses = [*training_losses, *_on_evaluation(points_of, "loss")]
    top1s = [("top1", "train"), *_on_evaluation(points_of, "top1")]
    charts = [
        Chart(
            "Top-1",
            _STEP_AXIS,
            Axis("Top-1 %"),
            _metric_series(points_of, top1s, max_points),
            "Top-1 by step.",
        ),
        Chart(
            "Loss",
            _STEP_AXIS,
            Axis("cross-entropy"),
            _metric_series(points_of, losses, max_points),
            "Loss by step.",
        ),
    ]
    return [chart for chart in charts if not chart.empty]


def _on_evaluation(points_of: Mapping[tuple[str, str], object], name: str) -> list[tuple[str, str]]:
    """Return where a metric was measured beside the training images: ``test`` or ``val``."""
    return sorted(key for key in points_of if key[0] == name and key[1] != "train")


def step_size_charts(
    stats: Iterable[QuantizerStats], *, max_points: int = MAX_STEP_SIZE_POINTS
) -> list[Chart]:
    """Return two charts, of weights and of inputs: each quantizer's step size, over its first.

    What a step size is depends on the layer's values; how far it moved can be compared.
    """
    points_of_quantizer: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for item in stats:
        points_of_quantizer[item.kind, item.name].append((float(item.step), item.step_size))
    charts = []
    for kind, title in (("weight", "Step sizes of weights"), ("input", "Step sizes of inputs")):
        series = [
            _relative_series(name, points, max_points)
            for (point_kind, name), points in points_of_quantizer.items()
            if point_kind == kind
        ]
        lines = tuple(item for item in series if len(item.points) > 1)
        about = f"{len(lines)} quantizers; 1 is the step size right after calibration."
        charts.append(Chart(title, _STEP_AXIS, Axis("step size / first step size"), lines, about))
    return [chart for chart in charts if not chart.empty]


def points_by_metric(metrics: Iterable[Metric]) -> dict[tuple[str, str], list[Point]]:
    """Return the points of each metric, by its name and split, in the order of steps."""
    points_of: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for metric in metrics:
        if is_drawable(metric.value, _STEP_AXIS):
            points_of[metric.name, metric.split].append((float(metric.step), metric.value))
    return {key: sorted(points) for key, points in points_of.items()}


def downsample(points: Sequence[Point], max_points: int) -> tuple[Point, ...]:
    """Return ``max_points`` at most that show the same shape; the first and the last stay.

    Of each stretch the point stays that makes the largest triangle with the one before and the
    middle of the next stretch (Steinarsson 2013, Largest-Triangle-Three-Buckets).
    """
    if len(points) <= max_points:
        return tuple(points)
    bucket_edges = [1 + (len(points) - 2) * n // (max_points - 2) for n in range(max_points - 1)]
    kept = [points[0]]
    for number, (start, end) in enumerate(pairwise(bucket_edges)):
        following = (
            points[end : bucket_edges[number + 2]]
            if number + 2 < len(bucket_edges)
            else points[-1:]
        )
        x = sum(point[0] for point in following) / len(following)
        y = sum(point[1] for point in following) / len(following)
        kept.append(
            max(points[start:end], key=lambda point: _triangle_area(kept[-1], point, (x, y)))
        )
    return (*kept, points[-1])


def _triangle_area(a: Point, b: Point, c: Point) -> float:
    return abs((a[0] - c[0]) * (b[1] - a[1]) - (a[0] - b[0]) * (c[1] - a[1]))


def _metric_series(
    points_of: Mapping[tuple[str, str], Sequence[Point]],
    keys: Iterable[tuple[str, str]],
    max_points: int,
) -> tuple[Series, ...]:
    available = [key for key in keys if key in points_of]
    return tuple(
        Series(
            sanitize(key[1]),
            downsample(points_of[key], max_points),
            "curve",
            color_index=color_index,
        )
        for color_index, key in enumerate(available)
    )


def _relative_series(name: str, points: Sequence[Point], max_points: int) -> Series:
    ordered = sorted(points)
    first = ordered[0][1]
    relative_points = [
        (x, y / first) for x, y in ordered if first > 0 and is_drawable(y, _STEP_AXIS)
    ]
    layer = name.removesuffix(".weight_quantizer").removesuffix(".input_quantizer")
    return Series(sanitize(layer), downsample(relative_points, max_points), "curve")


def metric_by_run(
    runs: Mapping[str, Sequence[Metric]], metric: str, split: str, *, max_points: int = 400
) -> Chart:
    """Return one metric of several runs by step, a line a run, by the name to show."""
    lines = [
        Series(
            sanitize(name),
            downsample(points_of.get((metric, split), []), max_points),
            "curve",
            color_index=color_index,
        )
        for color_index, (name, points) in enumerate(runs.items())
        if (points_of := points_by_metric(points))
    ]
    unit = " %" if metric in ("top1", "top5") else ""
    title = f"{sanitize(metric)}, {sanitize(split)}"
    return Chart(title, _STEP_AXIS, Axis(f"{sanitize(metric)}{unit}"), tuple(lines))
