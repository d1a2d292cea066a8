"""What a chart is: axes, and series of points that say how they look; nothing is drawn here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
SeriesStyle = Literal["own", "published", "full", "front", "rule", "curve"]
"""Points of own runs, of published rows, of full precision; a staircase, a level, a line."""

POINT_STYLES: tuple[SeriesStyle, ...] = ("own", "published", "full")


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

    @property
    def points(self) -> Iterator[Point]:
        """All points of all series."""
        return (point for series in self.series for point in series.points)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(series.points for series in self.series)
