"""Draw charts for print with matplotlib: SVG, PDF, PNG; equal charts give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lsqctl.errors import UsageError
from lsqctl.leaderboard.charts.chart import (
    POINT_STYLES,
    Chart,
    Series,
    axis_ranges,
    format_ticks,
    ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT_ENDINGS = ("svg", "pdf", "png")
# Told apart in print, in grey and by most who see colours otherwise (Okabe and Ito 2008).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_LEVEL_COLOR = "#444444"
_LINE_STYLES = ("-", "--", ":", "-.")  # of the first six lines, the next six, …
_MAX_LEGEND = 24
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "lsqctl",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "text.parse_math": False,
}
_METADATA_WITHOUT_DATE: dict[str, dict[str, None]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}


def draw_file(charts: Sequence[Chart], ending: str, *, width: float = 3.3) -> bytes:
    """Return the file's bytes: the charts side by side, each ``width`` inches wide (a column).

    Raises UsageError where matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UsageError(
            "a plot in a file needs matplotlib: pip install 'lsqctl[plot]'; without -o it is "
            "drawn in the terminal"
        ) from None
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width * len(charts), 0.76 * width), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, chart in zip(
            figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True
        ):
            _draw_chart(axes, chart, titled=len(charts) > 1)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=ending, dpi=300, metadata=_METADATA_WITHOUT_DATE[ending])
    return buffer.getvalue()


def _draw_chart(axes: Axes, chart: Chart, *, titled: bool) -> None:
    names = list(dict.fromkeys(series.label for series in chart.series if series.style != "rule"))
    labeled: set[str] = set()
    for series in chart.series:
        number = names.index(series.label) if series.style != "rule" else -1
        _draw_series(axes, chart, series, number, is_labeled=series.label not in labeled)
        labeled.add(series.label)
    (x_low, x_high), (y_low, y_high) = axis_ranges(chart)
    axes.set_xscale("log" if chart.x.log else "linear")
    x_values, y_values = (
        ticks(low, high, axis)
        for low, high, axis in ((x_low, x_high, chart.x), (y_low, y_high, chart.y))
    )
    axes.set_xticks(x_values, list(chart.x.tick_labels) or format_ticks(x_values), minor=False)
    axes.set_xticks([], minor=True)
    axes.set_yticks(y_values, format_ticks(y_values))
    axes.set_xlim(x_low, x_high)
    axes.set_ylim(y_low, y_high)
    axes.set_xlabel(chart.x.title)
    axes.set_ylabel(chart.y.title)
    axes.grid(axis="y", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    if titled:
        axes.set_title(chart.title)
    if 1 < len(labeled) <= 4:
        axes.legend()
    elif 4 < len(labeled) <= _MAX_LEGEND:  # no place within is free of lines
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), ncols=1 + len(labeled) // 13)
    elif chart.extreme_curves:
        _name_curves(axes, chart.extreme_curves)


def _name_curves(axes: Axes, curves: Sequence[Series]) -> None:
    """Write names beside the ends of lines that have no place in a legend."""
    for series in curves:
        axes.annotate(
            series.label,
            series.points[-1],
            (3, 0),
            textcoords="offset points",
            fontsize=6,
            verticalalignment="center",
            annotation_clip=False,
        )


def _draw_series(
    axes: Axes, chart: Chart, series: Series, label_number: int, *, is_labeled: bool
) -> None:
    indices = chart.drawable_indices(series)
    xs, ys = [series.points[n][0] for n in indices], [series.points[n][1] for n in indices]
    crowded = len(chart.series) > _MAX_LEGEND
    color = (
        _LEVEL_COLOR if label_number < 0 else COLORS[0 if crowded else label_number % len(COLORS)]
    )
    plot_args: dict[str, Any] = {"color": color, "label": series.label if is_labeled else None}
    if series.style not in POINT_STYLES:
        plot_args |= _line_style(series, label_number, crowded=crowded)
        axes.plot(xs, ys, **plot_args)
        return
    plot_args |= {"markerfacecolor": "white"} if series.style not in ("local", "mixed") else {}
    if series.joined:
        axes.plot(*zip(*series.line_points, strict=True), color=color)
    if series.intervals:
        _draw_intervals(axes, series, indices, color)
    axes.plot(xs, ys, linestyle="none", marker=_MARKERS[label_number % len(_MARKERS)], **plot_args)
    if series.short_labels:
        _name_points(axes, series, indices, color)


def _line_style(series: Series, label_number: int, *, crowded: bool) -> dict[str, object]:
    """Return how a line is drawn: six colours, then the same ones dashed, and so on."""
    style: dict[str, object] = {
        "alpha": 0.6 if crowded else 1.0,
        "linewidth": 0.8 if crowded else 1.2,
    }
    if series.style == "front":
        style["drawstyle"] = "steps-post"
    elif series.style == "rule":
        style["linestyle"] = "--"
    elif not crowded:
        style["linestyle"] = _LINE_STYLES[label_number // len(COLORS) % len(_LINE_STYLES)]
    return style


def _name_points(axes: Axes, series: Series, indices: Sequence[int], color: str) -> None:
    """Write its short label beside each point."""
    for n in indices:
        axes.annotate(
            series.short_labels[n],
            series.points[n],
            (3, 3),
            textcoords="offset points",
            fontsize=6,
            color=color,
        )


def _draw_intervals(axes: Axes, series: Series, indices: Sequence[int], color: str) -> None:
    points = [series.points[n] for n in indices]
    intervals = [series.intervals[n] or (series.points[n][1],) * 2 for n in indices]
    low = [max(0.0, y - low) for (_, y), (low, _) in zip(points, intervals, strict=True)]
    high = [max(0.0, high - y) for (_, y), (_, high) in zip(points, intervals, strict=True)]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    axes.errorbar(xs, ys, [low, high], fmt="none", ecolor=color, elinewidth=0.6, alpha=0.5)
