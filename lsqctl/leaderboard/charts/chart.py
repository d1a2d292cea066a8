"""A chart as a value: axes, series that say how they look, and where numbers lie on an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
SeriesStyle = Literal["local", "mixed", "published", "full", "front", "rule", "curve"]
"""Points of local runs, of those with bits by layer, of published rows, of full precision; a
staircase, a level, a line."""

POINT_STYLES: tuple[SeriesStyle, ...] = ("local", "mixed", "published", "full")


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction: its title with the unit, and whether equal factors are equal lengths.

    ``ticks`` are the only ones where given, as for bits; ``tick_labels`` what stands at them.
    """

    title: str
    log: bool = False
    ticks: tuple[float, ...] = ()
    tick_labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together; ``labels`` names each point, ``short_labels`` in short.

    ``rows`` says for each point which row of the board's table it is. ``joined`` points are
    joined by a line. ``intervals`` are those of y. ``color_index`` counts from 0.
    """

    label: str
    points: tuple[Point, ...]
    style: SeriesStyle
    labels: tuple[str, ...] = ()
    short_labels: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    intervals: tuple[Point | None, ...] = ()
    joined: bool = False
    color_index: int = 0

    @property
    def line_points(self) -> tuple[Point, ...]:
        """The points that a line joins: the first at each x."""
        first: dict[float, Point] = {}
        for point in self.points:
            first.setdefault(point[0], point)
        return tuple(first.values())


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart; ``description`` says in a sentence what it shows, for those who do not see it."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    description: str = ""

    def has_place(self, point: Point) -> bool:
        """Return whether both of a point's numbers have a place on their axes."""
        return is_drawable(point[0], self.x) and is_drawable(point[1], self.y)

    def drawable_indices(self, series: Series) -> list[int]:
        """Return which points of a series have a place."""
        return [n for n, point in enumerate(series.points) if self.has_place(point)]

    @property
    def points(self) -> Iterator[Point]:
        """All points of all series."""
        return (point for series in self.series for point in series.points)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(series.points for series in self.series)

    @property
    def curves(self) -> tuple[Series, ...]:
        """The lines, from the one that ends highest down."""
        drawn = [series for series in self.series if series.style == "curve" and series.points]
        return tuple(sorted(drawn, key=lambda series: -series.points[-1][1]))

    @property
    def extreme_curves(self) -> tuple[Series, ...]:
        """Of lines that are too many to name, those that end highest and lowest."""
        return tuple(dict.fromkeys((*self.curves[:1], *self.curves[-1:])))


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of numbers on a stretch of ``length``, which begins at ``start``."""

    low: float
    high: float
    start: float
    length: float
    log: bool = False

    def to_pixel(self, value: float) -> float:
        """Return where a number lies."""
        if self.log:
            fraction = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            fraction = (value - self.low) / (self.high - self.low)
        return self.start + self.length * fraction


def is_drawable(value: float, axis: Axis) -> bool:
    """Return whether a number has a place on the axis."""
    return math.isfinite(value) and (value > 0 or not axis.log)


def axis_ranges(chart: Chart) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the ranges of x and y that hold all there is to draw, with some room."""
    drawn = [point for point in chart.points if chart.has_place(point)]
    xs, ys = [x for x, _ in drawn], [y for _, y in drawn]
    xs += chart.x.ticks
    ys += [end for series in chart.series for ends in series.intervals if ends for end in ends]
    return _with_margin(xs, chart.x), _with_margin(ys, chart.y)


def _with_margin(values: Sequence[float], axis: Axis) -> tuple[float, float]:
    low, high = min(values, default=1.0), max(values, default=2.0)
    if axis.log:
        ratio = max(high / low, 1.2) ** 0.06
        return low / ratio, high * ratio
    margin = 0.06 * (high - low) or max(abs(high) * 0.05, 0.5)
    below = low - margin
    return (0.0 if below < 0 <= low and not axis.ticks else below), high + margin


def ticks(low: float, high: float, axis: Axis, *, n_ticks: int = 5) -> list[float]:
    """Return round numbers within a range, ``n_ticks`` of them or about so many."""
    if axis.ticks:
        return list(axis.ticks)
    return _log_ticks(low, high, n_ticks) if axis.log else _linear_ticks(low, high, n_ticks)


def _linear_ticks(low: float, high: float, n_ticks: int) -> list[float]:
    rough = (high - low) / n_ticks
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [power * factor for factor in (10, 5, 2, 1, 0.5) if power * factor >= rough * 0.499]
    tick_values: list[float] = []
    for step in steps:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        if tick_values and last - first + 1 > n_ticks + 1:
            break
        tick_values = [round(number * step, digits) for number in range(first, last + 1)]
    return tick_values


def _log_ticks(low: float, high: float, n_ticks: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        tick_values = [f * 10.0**power for power in powers for f in factors]
        tick_values = [float(f"{tick:.6g}") for tick in tick_values if low <= tick <= high]
        if len(tick_values) <= n_ticks + 1:
            break
    if len(tick_values) < 2:
        return [tick for tick in _linear_ticks(low, high, n_ticks) if tick > 0]
    return tick_values[:: max(1, math.ceil(len(tick_values) / (n_ticks + 1)))]


def format_ticks(values: Iterable[float]) -> list[str]:
    """Return a text for each tick: as many decimals as the ticks need, powers of ten spelled."""
    tick_values = list(values)
    largest = max(map(abs, tick_values), default=0.0)
    smallest = min((abs(value) for value in tick_values if value), default=1.0)
    if largest >= 1e6 or smallest < 1e-3:
        return [_scientific(value) for value in tick_values]
    return [f"{value:,.{_decimals(tick_values)}f}" for value in tick_values]


def _decimals(values: Sequence[float]) -> int:
    texts = [f"{value:.6f}".rstrip("0").partition(".")[2] for value in values]
    return max(map(len, texts), default=0)


def _scientific(value: float) -> str:
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(value)) + 1e-9)
    factor = f"{value / 10**power:.3g}"
    ten = f"10{str(power).translate(_SUPERSCRIPT)}"
    return ten if factor == "1" else f"{factor}·{ten}"
