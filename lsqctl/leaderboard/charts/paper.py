"""Draw charts for a paper as SVG, PDF or PNG; the same charts always give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lsqctl.errors import UsageError
from lsqctl.leaderboard.charts.chart import POINTS, Chart, Series
from lsqctl.leaderboard.charts.scales import drawable, span, tick_texts, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENDINGS = ("svg", "pdf", "png")
# Told apart in print, in grey and by most who see colours otherwise (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_LEVEL = "#444444"
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE: Any = {
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
_UNDATED: dict[str, dict[str, None]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}


def draw(charts: Sequence[Chart], ending: str, *, width: float = 3.3) -> bytes:
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
            _fill(axes, chart, titled=len(charts) > 1)
        found = io.BytesIO()
        figure.savefig(found, format=ending, dpi=300, metadata=_UNDATED[ending])
    return found.getvalue()


def _fill(axes: Axes, chart: Chart, *, titled: bool) -> None:
    names = list(dict.fromkeys(one.label for one in chart.series if one.look != "rule"))
    told: set[str] = set()
    for series in chart.series:
        number = names.index(series.label) if series.look != "rule" else -1
        _plot(axes, chart, series, number, told=series.label not in told)
        told.add(series.label)
    (x_low, x_high), (y_low, y_high) = span(chart)
    axes.set_xscale("log" if chart.x.log else "linear")
    x_values, y_values = (
        ticks(low, high, axis)
        for low, high, axis in ((x_low, x_high, chart.x), (y_low, y_high, chart.y))
    )
    axes.set_xticks(x_values, list(chart.x.names) or tick_texts(x_values), minor=False)
    axes.set_xticks([], minor=True)
    axes.set_yticks(y_values, tick_texts(y_values))
    axes.set_xlim(x_low, x_high)
    axes.set_ylim(y_low, y_high)
    axes.set_xlabel(chart.x.title)
    axes.set_ylabel(chart.y.title)
    axes.grid(axis="y", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    if titled:
        axes.set_title(chart.title)
    if 1 < len(told) <= 4:
        axes.legend()
    elif 4 < len(told) <= 12:  # no place within is free of lines
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02))


def _plot(axes: Axes, chart: Chart, series: Series, number: int, *, told: bool) -> None:
    kept = [
        n for n, (x, y) in enumerate(series.points) if drawable(x, chart.x) and drawable(y, chart.y)
    ]
    xs, ys = [series.points[n][0] for n in kept], [series.points[n][1] for n in kept]
    crowded = len(chart.series) > 12
    colour = _LEVEL if number < 0 else COLOURS[0 if crowded else number % len(COLOURS)]
    look: dict[str, Any] = {"color": colour, "label": series.label if told else None}
    if series.look not in POINTS:
        look |= {"drawstyle": "steps-post"} if series.look == "front" else {}
        look |= {"linestyle": "--"} if series.look == "rule" else {}
        axes.plot(xs, ys, alpha=0.6 if crowded else 1.0, linewidth=0.8 if crowded else 1.2, **look)
        return
    look |= {"markerfacecolor": "white"} if series.look != "own" else {}
    if series.joined:
        axes.plot(*zip(*series.line, strict=True), color=colour)
    if series.spans:
        low = [y - (series.spans[n] or (y, y))[0] for n, y in zip(kept, ys, strict=True)]
        high = [(series.spans[n] or (y, y))[1] - y for n, y in zip(kept, ys, strict=True)]
        bars = [[max(0.0, one) for one in low], [max(0.0, one) for one in high]]
        axes.errorbar(xs, ys, bars, fmt="none", ecolor=colour, elinewidth=0.6, alpha=0.5)
    axes.plot(xs, ys, linestyle="none", marker=_MARKERS[number % len(_MARKERS)], **look)
    for n, x, y in zip(kept, xs, ys, strict=True):
        if series.marks:
            axes.annotate(
                series.marks[n],
                (x, y),
                (3, 3),
                textcoords="offset points",
                fontsize=6,
                color=colour,
            )
