"""Draw a chart with letters: lines in braille dots, points as their signs, no colour needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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

STYLE_MARKERS = {
    "local": "●",
    "mixed": "■",
    "published": "○",
    "full": "□",
    "front": "┈",
    "rule": "╌",
}
MIN_WIDTH, MIN_HEIGHT = 24, 6
_LINE_SAMPLES = ("━", "╍", "┉")
_GAPS = (1, 2, 4)  # a second and third line have every second, every fourth dot
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # rows of a cell: left, right


def draw_lines(chart: Chart, *, width: int = 80, height: int = 20) -> list[str]:
    """Return the lines of a drawing that is ``width`` letters wide; the legend comes below it."""
    (x_low, x_high), (y_low, y_high) = axis_ranges(chart)
    y_values = ticks(y_low, y_high, chart.y, n_ticks=max(2, height // 4))
    y_texts = format_ticks(y_values)
    margin = max(map(len, y_texts), default=0) + 2
    columns, rows = max(MIN_WIDTH, width) - margin, max(MIN_HEIGHT, height)
    x = Scale(x_low, x_high, 0, columns - 1, chart.x.log)
    y = Scale(y_low, y_high, rows - 1, -(rows - 1), chart.y.log)
    cells = _plot_cells(chart, x, y, columns, rows)
    y_label = dict(zip((round(y.to_pixel(value)) for value in y_values), y_texts, strict=True))
    drawn = [
        f"{y_label.get(number, ''):>{margin - 2}} {'┤' if number in y_label else '│'}{''.join(row)}"
        for number, row in enumerate(cells)
    ]
    x_values = ticks(x_low, x_high, chart.x, n_ticks=max(2, columns // 14))
    tick_line = _tick_line(
        x_values, list(chart.x.tick_labels) or format_ticks(x_values), x, columns
    )
    return [
        chart.title,
        chart.y.title,
        *(row.rstrip() for row in drawn),
        " " * (margin - 1) + "└" + "─" * columns,
        (" " * margin + tick_line).rstrip(),
        f"{chart.x.title:>{margin + columns}}",
        *_legend(chart, margin + columns),
    ]


def _plot_cells(chart: Chart, x: Scale, y: Scale, columns: int, rows: int) -> list[list[str]]:
    dots = [[0] * columns for _ in range(rows)]
    cells = [[" "] * columns for _ in range(rows)]
    number = 0
    for series in chart.series:
        positions = list(
            _positions(series.line_points if series.joined else series.points, chart, x, y)
        )
        if series.style not in POINT_STYLES or series.joined:
            path = _staircase(positions) if series.style == "front" else positions
            gap = 2 if series.style in ("front", "rule") else _GAPS[number % len(_GAPS)]
            _draw_path(dots, path, gap)
            number += series.style not in ("front", "rule")
    for row, column in ((r, c) for r in range(rows) for c in range(columns) if dots[r][c]):
        cells[row][column] = chr(_BRAILLE + dots[row][column])
    for series in chart.series:
        if series.style in POINT_STYLES:
            for px, py in _positions(series.points, chart, x, y):
                cells[round(py)][round(px)] = STYLE_MARKERS[series.style]
    return cells


def _positions(points: Iterable[Point], chart: Chart, x: Scale, y: Scale) -> Iterator[Point]:
    for px, py in filter(chart.has_place, points):
        yield x.to_pixel(px), y.to_pixel(py)


def _staircase(positions: Sequence[Point]) -> list[Point]:
    corners = [(end[0], start[1]) for start, end in pairwise(positions)]
    return [
        point for pair in zip(positions, [*corners, positions[-1]], strict=True) for point in pair
    ]


def _draw_path(dots: list[list[int]], positions: Sequence[Point], gap: int) -> None:
    """Set the braille dots along a line, one in ``gap``."""
    count = 0
    for (x, y), (to_x, to_y) in pairwise(positions):
        steps = max(1, round(max(abs(to_x - x) * 2, abs(to_y - y) * 4)))
        for step in range(steps):
            count += 1
            if count % gap == 0:
                fraction = step / steps
                _set_dot(dots, x + (to_x - x) * fraction, y + (to_y - y) * fraction)


def _set_dot(dots: list[list[int]], x: float, y: float) -> None:
    """Set one of the eight dots of a cell; a cell's middle is where its sign would stand."""
    fine_x, fine_y = int((x + 0.5) * 2), int((y + 0.5) * 4)
    row = min(max(fine_y // 4, 0), len(dots) - 1)
    column = min(max(fine_x // 2, 0), len(dots[0]) - 1)
    dots[row][column] |= _DOTS[fine_y % 4][fine_x % 2]


def _tick_line(values: Iterable[float], texts: Iterable[str], x: Scale, columns: int) -> str:
    line = [" "] * columns
    free = 0
    for value, text in zip(values, texts, strict=True):
        start = min(max(round(x.to_pixel(value)) - len(text) // 2, 0), columns - len(text))
        if start >= free:
            line[start : start + len(text)] = text
            free = start + len(text) + 1
    return "".join(line)


def _legend_label(series: Series, *, n_curves: int) -> str:
    """Return a series' name; where lines look alike, with the number at which it ends."""
    if series.style != "curve" or n_curves <= len(_LINE_SAMPLES) or not series.points:
        return series.label
    return f"{series.label} → {series.points[-1][1]:.3g}"


def _legend(chart: Chart, width: int) -> list[str]:
    curves = [series for series in chart.series if series.style == "curve"]
    sign_labels = dict.fromkeys(
        (
            _LINE_SAMPLES[curves.index(series) % len(_LINE_SAMPLES)]
            if series in curves
            else STYLE_MARKERS[series.style],
            _legend_label(series, n_curves=len(curves)),
        )
        for series in chart.series
    )
    legend_lines: list[str] = []
    for sign, label in sign_labels:
        entry = f"{sign} {label}"
        if legend_lines and len(legend_lines[-1]) + len(entry) + 3 <= width:
            legend_lines[-1] += f"   {entry}"
        else:
            legend_lines.append(entry if len(entry) <= width else f"{entry[: width - 1]}…")
    return legend_lines
