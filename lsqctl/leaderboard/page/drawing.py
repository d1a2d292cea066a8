"""Place a chart on a drawing: coordinates of axes, marks and labels, ready for a template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lsqctl.leaderboard.charts.chart import POINTS, Chart, Point, Series
from lsqctl.leaderboard.charts.scales import Scale, drawable, span, tick_texts, ticks

_MANY = 40  # points of which each has its interval drawn
_LABELS = 6
_LETTER = 6.0  # about the width of one at the size of labels
_LINE = 13.0


@dataclass(frozen=True, slots=True)
class Size:
    """The drawing's size and how many ticks it has room for, in its own units (CSS pixels)."""

    width: int
    height: int
    x_ticks: int = 5
    y_ticks: int = 5
    left: int = 44
    right: int = 12
    top: int = 24
    bottom: int = 34


WIDE = Size(480, 322)
SMALL = Size(230, 165, x_ticks=4, y_ticks=3, left=36, right=10, top=10, bottom=22)
LOW = Size(480, 242)


@dataclass(frozen=True, slots=True)
class Mark:
    """One path of the drawing; ``rows`` are the table's rows of its points, in their order."""

    look: str
    label: str
    path: str
    tone: int = 0
    whiskers: str = ""
    line: str = ""
    rows: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """Words at a place; ``anchor`` is which end of them lies there."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    look: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A placed chart. ``x_range`` and ``y_range`` lead from places back to numbers."""

    chart: Chart
    size: Size
    x_scale: Scale
    y_scale: Scale
    x_ticks: tuple[Text, ...]
    y_ticks: tuple[Text, ...]
    marks: tuple[Mark, ...]
    labels: tuple[Text, ...]

    @property
    def scales(self) -> str:
        """What a script needs to read numbers off: both scales, logarithmic ones marked."""
        return " ".join(_scale_text(one) for one in (self.x_scale, self.y_scale))


def draw(chart: Chart, size: Size = WIDE) -> Drawing:
    """Return the chart with every place computed."""
    (x_low, x_high), (y_low, y_high) = span(chart)
    width = size.width - size.left - size.right
    height = size.height - size.top - size.bottom
    x = Scale(x_low, x_high, size.left, width, chart.x.log)
    y = Scale(y_low, y_high, size.top + height, -height, chart.y.log)
    x_values = ticks(x_low, x_high, chart.x, wanted=size.x_ticks)
    y_values = ticks(y_low, y_high, chart.y, wanted=size.y_ticks)
    below = size.height - size.bottom + 15
    return Drawing(
        chart,
        size,
        x,
        y,
        tuple(
            Text(_round(x.place(value)), below, text, "middle")
            for value, text in zip(x_values, tick_texts(x_values), strict=True)
        ),
        tuple(
            Text(size.left - 7, _round(y.place(value)), text, "end")
            for value, text in zip(y_values, tick_texts(y_values), strict=True)
        ),
        tuple(_mark(one, chart, x, y) for one in chart.series if one.points),
        tuple(_labels(chart, size, x, y)),
    )


def _mark(series: Series, chart: Chart, x: Scale, y: Scale) -> Mark:
    kept = [
        number
        for number, (px, py) in enumerate(series.points)
        if drawable(px, chart.x) and drawable(py, chart.y)
    ]
    placed = [(x.place(series.points[n][0]), y.place(series.points[n][1])) for n in kept]
    dots = series.look in POINTS
    joined = series.line if series.joined else ()
    spans = (
        [(place, series.spans[n]) for n, place in zip(kept, placed, strict=True)]
        if (series.spans and len(placed) <= _MANY)
        else []
    )
    return Mark(
        series.look,
        series.label,
        _dots(placed) if dots else _stairs(placed) if series.look == "front" else _line(placed),
        tone=series.tone,
        whiskers="".join(
            f"M{_number(place[0])} {_number(y.place(ends[0]))}V{_number(y.place(ends[1]))}"
            for place, ends in spans
            if ends
        ),
        line=_line([(x.place(px), y.place(py)) for px, py in joined]) if len(joined) > 1 else "",
        rows=tuple(series.rows[n] for n in kept) if series.rows else (),
    )


def _dots(places: Iterable[Point]) -> str:
    """Return a path of strokes without length: with round ends each is a dot."""
    return "".join(f"M{_number(x)} {_number(y)}h0" for x, y in places)


def _line(places: Sequence[Point]) -> str:
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in places) if places else ""


def _stairs(places: Sequence[Point]) -> str:
    first = f"M{_number(places[0][0])} {_number(places[0][1])}"
    return first + "".join(f"H{_number(x)}V{_number(y)}" for x, y in places[1:])


def _labels(chart: Chart, size: Size, x: Scale, y: Scale) -> Iterator[Text]:
    """Yield names beside the points of the front, from the best down, where there is room."""
    found = {
        point: label
        for one in chart.series
        for point, label in zip(one.points, one.labels, strict=False)
    }
    best = [point for one in chart.series if one.look == "front" for point in one.points]
    taken = [(x.place(px), y.place(py)) for px, py in chart.points]
    taken += _along([(x.place(px), y.place(py)) for px, py in best])
    taken += [
        (x.place(px), y.place(ends[0]) + (y.place(ends[1]) - y.place(ends[0])) * n / 6)
        for one in chart.series
        if len(one.points) <= _MANY
        for (px, _), ends in zip(one.points, one.spans, strict=False)
        if ends
        for n in range(7)
    ]
    boxes: list[tuple[float, float, float, float]] = []
    for point in reversed(best):
        if len(boxes) == _LABELS:
            break
        label = _short(found.get(point, ""))
        place = x.place(point[0]), y.place(point[1])
        for text in _around(place, label, size):
            box = _box(text)
            free = not any(_meet(box, other) for other in boxes)
            if free and sum(_inside(box, dot) for dot in taken) == 0:
                boxes.append(box)
                yield text
                break


def _along(places: Sequence[Point]) -> Iterator[Point]:
    """Yield places on the staircase, close enough together that no label fits between."""
    for (x, y), (to_x, to_y) in pairwise(places):
        yield from ((x + (to_x - x) * n / 8, y) for n in range(1, 9))
        yield from ((to_x, y + (to_y - y) * n / 8) for n in range(1, 8))


def _around(place: Point, label: str, size: Size) -> Iterator[Text]:
    x, y = place
    width = _LETTER * len(label)
    for dx, dy, anchor in ((-7, -7, "end"), (0, -10, "middle"), (9, 15, "start"), (9, 4, "start")):
        left = x + dx - {"start": 0, "end": width, "middle": width / 2}[anchor]
        inside = left > size.left and left + width < size.width - 2
        if inside and size.top + 8 < y + dy < size.height - size.bottom - 4:
            yield Text(_round(x + dx), _round(y + dy), label, anchor)


def _box(text: Text) -> tuple[float, float, float, float]:
    width = _LETTER * len(text.text)
    left = text.x - {"start": 0.0, "end": width, "middle": width / 2}[text.anchor]
    return left - 2, text.y - _LINE + 3, left + width + 2, text.y + 3


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inside(box: tuple[float, float, float, float], dot: Point) -> bool:
    return box[0] - 3 < dot[0] < box[2] + 3 and box[1] - 3 < dot[1] < box[3] + 3


def _short(label: str) -> str:
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
