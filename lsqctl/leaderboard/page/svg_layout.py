"""Lay a chart out for SVG: coordinates of axes, marks and labels, ready for a template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lsqctl.leaderboard.charts.chart import (
    POINT_STYLES,
    Chart,
    Point,
    Scale,
    Series,
    axis_ranges,
    format_ticks,
    ticks,
)

_MAX_INTERVALS = 40  # points of which each has its interval drawn
_MAX_LABELS = 6
_MAX_BITS_LABELS = 12
_LETTER_WIDTH = 6.0  # about the width of one at the size of labels
_LINE_HEIGHT = 13.0
_Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, slots=True)
class CanvasSize:
    """The drawing's size and how many ticks it has room for, in its own units (CSS pixels)."""

    width: int
    height: int
    x_ticks: int = 5
    y_ticks: int = 5
    left: int = 44
    right: int = 12
    top: int = 24
    bottom: int = 34


WIDE = CanvasSize(480, 322)
SMALL = CanvasSize(230, 165, x_ticks=4, y_ticks=3, left=36, right=10, top=10, bottom=22)
LOW = CanvasSize(480, 242)
MEDIUM = CanvasSize(340, 206, x_ticks=4, y_ticks=4, left=40, right=10, top=10, bottom=24)
MANY_CURVES = 6  # lines that get no legend: only the extremes are named beside them


@dataclass(frozen=True, slots=True)
class PathMark:
    """One path of the drawing; ``rows`` are the table's rows of its points, in their order."""

    style: str
    label: str
    path: str
    color_index: int = 0
    whiskers: str = ""
    line: str = ""
    rows: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TextMark:
    """Words at a place; ``anchor`` is which end of them lies there."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    css_class: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A placed chart. ``x_range`` and ``y_range`` lead from places back to numbers."""

    chart: Chart
    size: CanvasSize
    x_scale: Scale
    y_scale: Scale
    x_ticks: tuple[TextMark, ...]
    y_ticks: tuple[TextMark, ...]
    marks: tuple[PathMark, ...]
    labels: tuple[TextMark, ...]

    @property
    def scales(self) -> str:
        """What a script needs to read numbers off: both scales, logarithmic ones marked."""
        return " ".join(_scale_text(scale) for scale in (self.x_scale, self.y_scale))


def layout_chart(chart: Chart, size: CanvasSize = WIDE) -> Drawing:
    """Return the chart with every place computed."""
    (x_low, x_high), (y_low, y_high) = axis_ranges(chart)
    width = size.width - size.left - size.right
    height = size.height - size.top - size.bottom
    x = Scale(x_low, x_high, size.left, width, chart.x.log)
    y = Scale(y_low, y_high, size.top + height, -height, chart.y.log)
    x_values = ticks(x_low, x_high, chart.x, n_ticks=size.x_ticks)
    y_values = ticks(y_low, y_high, chart.y, n_ticks=size.y_ticks)
    tick_y = size.height - size.bottom + 15
    return Drawing(
        chart,
        size,
        x,
        y,
        tuple(
            TextMark(_round(x.to_pixel(value)), tick_y, text, "middle")
            for value, text in zip(x_values, format_ticks(x_values), strict=True)
        ),
        tuple(
            TextMark(size.left - 7, _round(y.to_pixel(value)), text, "end")
            for value, text in zip(y_values, format_ticks(y_values), strict=True)
        ),
        tuple(_path_mark(series, chart, x, y) for series in chart.series if series.points),
        (*_place_labels(chart, size, x, y), *_name_extremes(chart, size, y)),
    )


def _name_extremes(chart: Chart, size: CanvasSize, y: Scale) -> Iterator[TextMark]:
    """Yield the names of the lines that end highest and lowest, where all have no place."""
    if len(chart.curves) >= MANY_CURVES:
        for series, below in zip(chart.extreme_curves, (-6, 15), strict=False):
            end = y.to_pixel(series.points[-1][1])
            text = series.label if len(series.label) <= 26 else f"…{series.label[-25:]}"
            yield TextMark(size.width - size.right, _round(end + below), text, "end")


def _path_mark(series: Series, chart: Chart, x: Scale, y: Scale) -> PathMark:
    indices = chart.drawable_indices(series)
    positions = [
        (x.to_pixel(series.points[n][0]), y.to_pixel(series.points[n][1])) for n in indices
    ]
    if series.style in POINT_STYLES:
        path = _dots_path(positions)
    elif series.style == "front":
        path = _staircase_path(positions, x.start + x.length)
    else:
        path = _line_path(positions)
    joined = series.line_points if series.joined else ()
    return PathMark(
        series.style,
        series.label,
        path,
        color_index=series.color_index,
        whiskers=_whiskers_path(series, indices, x, y),
        line=_line_path([(x.to_pixel(px), y.to_pixel(py)) for px, py in joined])
        if len(joined) > 1
        else "",
        rows=tuple(series.rows[n] for n in indices) if series.rows else (),
    )


def _dots_path(positions: Iterable[Point]) -> str:
    """Return a path of strokes without length: with round ends each is a dot."""
    return "".join(f"M{_number(x)} {_number(y)}h0" for x, y in positions)


def _whiskers_path(series: Series, indices: Sequence[int], x: Scale, y: Scale) -> str:
    """Return a stroke from end to end of each point's interval, where they are not too many."""
    if not series.intervals or len(indices) > _MAX_INTERVALS:
        return ""
    spans = [(series.points[n][0], ends) for n in indices if (ends := series.intervals[n])]
    return "".join(
        f"M{_number(x.to_pixel(px))} {_number(y.to_pixel(low))}V{_number(y.to_pixel(high))}"
        for px, (low, high) in spans
    )


def _line_path(positions: Sequence[Point]) -> str:
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in positions) if positions else ""


def _staircase_path(positions: Sequence[Point], right: float) -> str:
    """Return a staircase that goes on to the right edge: what costs more is no better."""
    first = f"M{_number(positions[0][0])} {_number(positions[0][1])}"
    steps = "".join(f"H{_number(x)}V{_number(y)}" for x, y in positions[1:])
    return f"{first}{steps}H{_number(right)}"


def _place_labels(chart: Chart, size: CanvasSize, x: Scale, y: Scale) -> Iterator[TextMark]:
    """Yield names beside the points of the front, from the best down, where there is room.

    Of few points those without a name have their bits beside them.
    """
    label_of = {
        point: label
        for series in chart.series
        for point, label in zip(series.points, series.labels, strict=False)
    }
    occupied = list(_occupied_positions(chart, x, y))
    names = [(point, _short_label(label_of.get(point, ""))) for point in reversed(_front(chart))]
    boxes: list[_Box] = []
    placed: set[Point] = set()
    for point, label in [*names[:_MAX_LABELS], *_bits_labels(chart)]:
        if point in placed:
            continue
        position = x.to_pixel(point[0]), y.to_pixel(point[1])
        for text in _label_candidates(position, label, size):
            box = _box(text)
            if not any(_overlap(box, other) for other in boxes) and not any(
                _inside(box, dot) for dot in occupied
            ):
                boxes.append(box)
                placed.add(point)
                yield text
                break


def _front(chart: Chart) -> list[Point]:
    return [point for series in chart.series if series.style == "front" for point in series.points]


def _occupied_positions(chart: Chart, x: Scale, y: Scale) -> Iterator[Point]:
    """Yield where no label may lie: on points, along the front's staircase, and on intervals."""
    yield from ((x.to_pixel(px), y.to_pixel(py)) for px, py in chart.points)
    front = [(x.to_pixel(px), y.to_pixel(py)) for px, py in _front(chart)]
    yield from _staircase_positions([*front, *((x.start + x.length, py) for _, py in front[-1:])])
    for series in chart.series:
        if len(series.points) > _MAX_INTERVALS:
            continue
        for (px, _), ends in zip(series.points, series.intervals, strict=False):
            if ends:
                low, high = map(y.to_pixel, ends)
                yield from ((x.to_pixel(px), low + (high - low) * n / 6) for n in range(7))


def _bits_labels(chart: Chart) -> list[tuple[Point, str]]:
    """Return the points with their short labels, where they are few."""
    labels = [
        (point, label)
        for series in chart.series
        for point, label in zip(series.points, series.short_labels, strict=False)
        if label
    ]
    return labels if len(labels) <= _MAX_BITS_LABELS else []


def _staircase_positions(positions: Sequence[Point]) -> Iterator[Point]:
    """Yield places on the staircase, close enough together that no label fits between."""
    for (x, y), (to_x, to_y) in pairwise(positions):
        yield from ((x + (to_x - x) * n / 8, y) for n in range(1, 9))
        yield from ((to_x, y + (to_y - y) * n / 8) for n in range(1, 8))


def _label_candidates(position: Point, label: str, size: CanvasSize) -> Iterator[TextMark]:
    x, y = position
    width = _LETTER_WIDTH * len(label)
    for dx, dy, anchor in ((-7, -7, "end"), (0, -10, "middle"), (9, 15, "start"), (9, 4, "start")):
        left = x + dx - {"start": 0, "end": width, "middle": width / 2}[anchor]
        inside = left > size.left and left + width < size.width - 2
        if inside and size.top + 8 < y + dy < size.height - size.bottom - 4:
            yield TextMark(_round(x + dx), _round(y + dy), label, anchor)


def _box(text: TextMark) -> _Box:
    width = _LETTER_WIDTH * len(text.text)
    left = text.x - {"start": 0.0, "end": width, "middle": width / 2}[text.anchor]
    return left - 2, text.y - _LINE_HEIGHT + 3, left + width + 2, text.y + 3


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inside(box: _Box, dot: Point) -> bool:
    return box[0] - 3 < dot[0] < box[2] + 3 and box[1] - 3 < dot[1] < box[3] + 3


def _short_label(label: str) -> str:
    """Return the last part of a name, cut to what a label has room for."""
    last = label.rpartition("/")[2] or label
    return last if len(last) <= 26 else f"{last[:25]}…"


def _scale_text(scale: Scale) -> str:
    ends = f"{scale.low:.6g} {scale.high:.6g} {_number(scale.start)} {_number(scale.length)}"
    return f"{ends} {int(scale.log)}"


def _round(value: float) -> float:
    return round(value, 1)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
