"""Draw a chart with letters: lines in braille dots, points as their signs, no colour needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from lsqctl.leaderboard.charts.chart import POINTS, Chart, Point
from lsqctl.leaderboard.charts.scales import Scale, drawable, span, tick_texts, ticks

SIGNS = {"own": "●", "published": "○", "full": "□", "front": "┈", "rule": "╌"}
NARROWEST, LOWEST = 24, 6
_LINES = ("━", "╍", "┉")
_GAPS = (1, 2, 4)  # a second and third line have every second, every fourth dot
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # rows of a cell: left, right


def lines(chart: Chart, *, width: int = 80, height: int = 20) -> list[str]:
    """Return the lines of a drawing that is ``width`` letters wide; the legend comes below it."""
    (x_low, x_high), (y_low, y_high) = span(chart)
    y_values = ticks(y_low, y_high, chart.y, wanted=max(2, height // 4))
    y_texts = tick_texts(y_values)
    margin = max(map(len, y_texts), default=0) + 2
    columns, rows = max(NARROWEST, width) - margin, max(LOWEST, height)
    x = Scale(x_low, x_high, 0, columns - 1, chart.x.log)
    y = Scale(y_low, y_high, rows - 1, -(rows - 1), chart.y.log)
    cells = _cells(chart, x, y, columns, rows)
    beside = dict(zip((round(y.place(one)) for one in y_values), y_texts, strict=True))
    drawn = [
        f"{beside.get(number, ''):>{margin - 2}} {'┤' if number in beside else '│'}{''.join(row)}"
        for number, row in enumerate(cells)
    ]
    x_values = ticks(x_low, x_high, chart.x, wanted=max(2, columns // 14))
    below = _below(x_values, list(chart.x.names) or tick_texts(x_values), x, columns)
    return [
        chart.title,
        chart.y.title,
        *(row.rstrip() for row in drawn),
        " " * (margin - 1) + "└" + "─" * columns,
        (" " * margin + below).rstrip(),
        f"{chart.x.title:>{margin + columns}}",
        *_legend(chart, margin + columns),
    ]


def _cells(chart: Chart, x: Scale, y: Scale, columns: int, rows: int) -> list[list[str]]:
    dots = [[0] * columns for _ in range(rows)]
    cells = [[" "] * columns for _ in range(rows)]
    number = 0
    for one in chart.series:
        places = list(_places(one.line if one.joined else one.points, chart, x, y))
        if one.look not in POINTS or one.joined:
            walked = _stairs(places) if one.look == "front" else places
            gap = 2 if one.look in ("front", "rule") else _GAPS[number % len(_GAPS)]
            _draw(dots, walked, gap)
            number += one.look not in ("front", "rule")
    for row, column in ((r, c) for r in range(rows) for c in range(columns) if dots[r][c]):
        cells[row][column] = chr(_BRAILLE + dots[row][column])
    for one in chart.series:
        if one.look in POINTS:
            for px, py in _places(one.points, chart, x, y):
                cells[round(py)][round(px)] = SIGNS[one.look]
    return cells


def _places(points: Iterable[Point], chart: Chart, x: Scale, y: Scale) -> Iterator[Point]:
    for px, py in points:
        if drawable(px, chart.x) and drawable(py, chart.y):
            yield x.place(px), y.place(py)


def _stairs(places: Sequence[Point]) -> list[Point]:
    corners = [(to[0], start[1]) for start, to in pairwise(places)]
    return [point for pair in zip(places, [*corners, places[-1]], strict=True) for point in pair]


def _draw(dots: list[list[int]], places: Sequence[Point], gap: int) -> None:
    """Set the braille dots along a line, one in ``gap``."""
    count = 0
    for (x, y), (to_x, to_y) in pairwise(places):
        steps = max(1, round(max(abs(to_x - x) * 2, abs(to_y - y) * 4)))
        for step in range(steps):
            count += 1
            if count % gap == 0:
                share = step / steps
                _dot(dots, x + (to_x - x) * share, y + (to_y - y) * share)


def _dot(dots: list[list[int]], x: float, y: float) -> None:
    """Set one of the eight dots of a cell; a cell's middle is where its sign would stand."""
    fine_x, fine_y = int((x + 0.5) * 2), int((y + 0.5) * 4)
    row = min(max(fine_y // 4, 0), len(dots) - 1)
    column = min(max(fine_x // 2, 0), len(dots[0]) - 1)
    dots[row][column] |= _DOTS[fine_y % 4][fine_x % 2]


def _below(values: Iterable[float], texts: Iterable[str], x: Scale, columns: int) -> str:
    line = [" "] * columns
    free = 0
    for value, text in zip(values, texts, strict=True):
        start = min(max(round(x.place(value)) - len(text) // 2, 0), columns - len(text))
        if start >= free:
            line[start : start + len(text)] = text
            free = start + len(text) + 1
    return "".join(line)


def _legend(chart: Chart, width: int) -> list[str]:
    lined = [one for one in chart.series if one.look == "curve"]
    seen = dict.fromkeys(
        (_LINES[lined.index(one) % len(_LINES)] if one in lined else SIGNS[one.look], one.label)
        for one in chart.series
    )
    found: list[str] = []
    for sign, label in seen:
        entry = f"{sign} {label}"
        if found and len(found[-1]) + len(entry) + 3 <= width:
            found[-1] += f"   {entry}"
        else:
            found.append(entry if len(entry) <= width else f"{entry[: width - 1]}…")
    return found
