"""Place numbers on an axis: round ticks, linear or logarithmic, and texts for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lsqctl.leaderboard.charts.chart import Axis, Chart

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of numbers on a stretch of ``length``, which begins at ``start``."""

    low: float
    high: float
    start: float
    length: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return where a number lies."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + self.length * share


def drawable(value: float, axis: Axis) -> bool:
    """Return whether a number has a place on the axis."""
    return math.isfinite(value) and (value > 0 or not axis.log)


def span(chart: Chart) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the ranges of x and y that hold all there is to draw, with some room."""
    seen = [p for p in chart.points if drawable(p[0], chart.x) and drawable(p[1], chart.y)]
    xs, ys = [x for x, _ in seen], [y for _, y in seen]
    xs += chart.x.ticks
    ys += [end for one in chart.series for ends in one.spans if ends for end in ends]
    return _roomy(xs, chart.x), _roomy(ys, chart.y)


def _roomy(values: Sequence[float], axis: Axis) -> tuple[float, float]:
    low, high = min(values, default=1.0), max(values, default=2.0)
    if axis.log:
        ratio = max(high / low, 1.2) ** 0.06
        return low / ratio, high * ratio
    room = 0.06 * (high - low) or max(abs(high) * 0.05, 0.5)
    below = low - room
    return (0.0 if below < 0 <= low and not axis.ticks else below), high + room


def ticks(low: float, high: float, axis: Axis, *, wanted: int = 5) -> list[float]:
    """Return round numbers within a range, ``wanted`` of them or about so many."""
    if axis.ticks:
        return list(axis.ticks)
    return _log_ticks(low, high, wanted) if axis.log else _linear_ticks(low, high, wanted)


def _linear_ticks(low: float, high: float, wanted: int) -> list[float]:
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [power * factor for factor in (10, 5, 2, 1, 0.5) if power * factor >= rough * 0.499]
    found: list[float] = []
    for step in steps:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        if found and last - first + 1 > wanted + 1:
            break
        found = [round(number * step, digits) for number in range(first, last + 1)]
    return found


def _log_ticks(low: float, high: float, wanted: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**power for power in powers for f in factors]
        found = [float(f"{tick:.6g}") for tick in found if low <= tick <= high]
        if len(found) <= wanted + 1:
            break
    if len(found) < 2:
        return [one for one in _linear_ticks(low, high, wanted) if one > 0]
    return found[:: max(1, math.ceil(len(found) / (wanted + 1)))]


def tick_texts(values: Iterable[float]) -> list[str]:
    """Return a text for each tick: as many decimals as the ticks need, powers of ten spelled."""
    found = list(values)
    largest = max(map(abs, found), default=0.0)
    smallest = min((abs(value) for value in found if value), default=1.0)
    if largest >= 1e6 or smallest < 1e-3:
        return [_scientific(value) for value in found]
    return [f"{value:,.{_decimals(found)}f}" for value in found]


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
