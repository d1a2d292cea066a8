"""The page: rows, charts and histories as values, filled into a template that trusts nobody.

The policy names the style and the script by their hashes; nothing is loaded, and what a name
contains can become neither markup nor code nor a request.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lsqctl.leaderboard.board import Board, Table
from lsqctl.leaderboard.charts.accuracy import (
    accuracy_by_bits,
    accuracy_by_cost,
    cost_unit,
    series_style,
)
from lsqctl.leaderboard.charts.chart import Chart
from lsqctl.leaderboard.page.svg_layout import (
    LOW,
    MEDIUM,
    SMALL,
    WIDE,
    CanvasSize,
    Drawing,
    layout_chart,
)
from lsqctl.leaderboard.rank import Cost
from lsqctl.leaderboard.schema import COLUMNS_BY_NAME, Entry
from lsqctl.leaderboard.table_view import (
    DEFAULT_COLUMNS,
    MISSING,
    Highlight,
    ViewTable,
    board_view,
    half_width_text,
    summary_column,
)
from lsqctl.text import sanitize

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from lsqctl.leaderboard.page.classifier import Classifier

ROW_CSS_CLASSES = {"local": "o", "mixed": "o", "published": "p", "full": "f"}
_DELTA_CSS_CLASSES: Mapping[Highlight, str] = {"good": "g", "bad": "w", "": ""}


@dataclass(frozen=True, slots=True)
class RunHistory:
    """What one run did over time: its charts, by the id of the run and the name of its row."""

    run_id: str
    model: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True, slots=True)
class PageColumn:
    """One column of the page's table: a column of the board, or ``half_width`` beside Top-1.

    ``numeric`` ones are sorted as numbers and stand at the right; ``long_name`` explains a heading
    of one letter.
    """

    key: str
    heading: str
    numeric: bool
    long_name: str = ""


@dataclass(frozen=True, slots=True)
class PageRow:
    """One row of the table: its model, and its other cells as HTML, of PAGE_COLUMNS in order.

    ``css_class`` is o, p or f: local, published, fp32; ``delta_css_class`` g or w: gain, loss.
    """

    css_class: str
    model: str
    cells_before: Markup
    cells_after: Markup
    is_pareto: bool
    delta_css_class: str
    run_id: str


@dataclass(frozen=True, slots=True)
class RunHistoryView:
    """A run's history as drawings."""

    run_id: str
    model: str
    drawings: tuple[Drawing, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One dataset: its rows, the units of their columns by key, and its charts.

    ``deviations`` are (model, where its recipe deviates from the paper's), if they were asked for.
    """

    key: str
    title: str
    subtitle: str
    footer: str
    units: Mapping[str, str]
    rows: tuple[PageRow, ...]
    drawings: tuple[Drawing, ...]
    networks: tuple[Drawing, ...]
    deviations: tuple[tuple[str, str], ...] = ()


HALF_WIDTH = PageColumn("half_width", "±", numeric=True)


def _page_columns() -> Iterator[PageColumn]:
    for name in DEFAULT_COLUMNS:
        column = COLUMNS_BY_NAME[name]
        heading = summary_column(column).title
        is_letter = len(heading) == 1 and heading.isalpha()
        long_name = name.replace("_", " ").removeprefix("n ") if is_letter else ""
        yield PageColumn(name, heading, column.kind == "number", long_name)
        if name == "top1_mean":
            yield HALF_WIDTH


PAGE_COLUMNS: tuple[PageColumn, ...] = tuple(_page_columns())
"""The columns of the page's table: those of every table, Top-1 and its interval apart."""
_MODEL = [column.key for column in PAGE_COLUMNS].index("model")


def build_sections(board: Board) -> list[Section]:
    """Return a section for each table of the board that has rows, in its order."""
    tables = zip(board.tables, board_view(board), strict=True)
    with_rows = [(table, view_table) for table, view_table in tables if table.rows]
    return [_section(f"d{number}", *pair) for number, pair in enumerate(with_rows)]


def history_view(history: RunHistory) -> RunHistoryView:
    """Return a run's history drawn."""
    drawings = tuple(layout_chart(chart, LOW) for chart in history.charts if not chart.empty)
    return RunHistoryView(history.run_id, sanitize(history.model), drawings)


def safe_link(url: str | None) -> str:
    """Return the URL if it leads to a web page, else nothing: it will stand in an href."""
    if not url or sanitize(url) != url or any(char.isspace() for char in url):
        return ""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return url if parts.scheme in ("http", "https") and parts.netloc else ""


def _section(key: str, table: Table, view_table: ViewTable) -> Section:
    dataset, _, rest = view_table.title.partition(" · ")
    units = {cost: cost_unit(table, cost) for cost in _COSTS}
    aligned: dict[str, Sequence[str]] = {
        cost: _align_numbers(table.rows, cost, units[cost][0]) for cost in _COSTS
    }
    charts = [accuracy_by_cost(table, cost) for cost in _COSTS]
    networks = [chart for chart in accuracy_by_bits(table) if _is_worth_drawing(chart)]
    return Section(
        key=key,
        title=dataset,
        subtitle=rest,
        footer=view_table.footer,
        units={"size_bytes": units["size_bytes"][1], "gbops": f"{units['gbops'][1]}BOPs"},
        rows=tuple(_page_rows(table, view_table, aligned)),
        drawings=tuple(layout_chart(chart, WIDE) for chart in charts if _is_worth_drawing(chart)),
        networks=tuple(layout_chart(chart, _network_size(len(networks))) for chart in networks),
        deviations=tuple(
            (sanitize(row.model), note)
            for row, note in zip(table.rows, view_table.notes, strict=False)
            if note
        ),
    )


_COSTS: tuple[Cost, ...] = ("size_bytes", "gbops")


def _network_size(n_charts: int) -> CanvasSize:
    """Return how large each of so many charts is, which fill a row together."""
    return LOW if n_charts <= 2 else MEDIUM if n_charts <= 4 else SMALL


def _is_worth_drawing(chart: Chart) -> bool:
    """Return whether there are two points or more to compare."""
    return (
        sum(len(series.points) for series in chart.series if series.style not in ("front", "rule"))
        > 1
    )


def _align_numbers(rows: Sequence[Entry], cost: Cost, unit: float) -> list[str]:
    """Return a column of numbers with as many decimals as show the smallest, so that they align."""
    values = [getattr(row, cost) for row in rows]
    smallest = min((value / unit for value in values if value), default=1.0)
    decimals = min(3, max(0, 2 - math.floor(math.log10(smallest))))
    return ["" if value is None else f"{value / unit:,.{decimals}f}" for value in values]


def _page_rows(
    table: Table, view_table: ViewTable, aligned: Mapping[str, Sequence[str]]
) -> Iterable[PageRow]:
    for n, (entry, row) in enumerate(zip(table.rows, view_table.rows, strict=True)):
        cells = dict(zip(DEFAULT_COLUMNS, row, strict=True))
        texts = {name: "" if cell.text == MISSING else cell.text for name, cell in cells.items()}
        half_width = half_width_text(entry)
        texts |= {name: column[n] for name, column in aligned.items()}
        texts |= {
            "model": sanitize(entry.model),  # its marker is the row's class
            "top1_mean": f"{entry.top1_mean:.2f}",
            HALF_WIDTH.key: f"±{half_width}" if half_width else "",
        }
        link = safe_link(cells["origin"].link)
        yield PageRow(
            css_class=ROW_CSS_CLASSES[series_style(entry)],
            model=texts["model"],
            cells_before=_cells_html(texts, PAGE_COLUMNS[:_MODEL], link),
            cells_after=_cells_html(texts, PAGE_COLUMNS[_MODEL + 1 :], link),
            is_pareto=bool(entry.pareto_optimal) and not entry.is_full_precision,
            delta_css_class=_DELTA_CSS_CLASSES[cells["delta_fp32"].highlight],
            run_id=entry.best_run or "",
        )


def _cells_html(texts: Mapping[str, str], columns: Sequence[PageColumn], link: str) -> Markup:
    """Return cells as HTML, each text escaped; in a template, a thousand rows take a second."""
    from markupsafe import Markup, escape

    cells = []
    for column in columns:
        text = str(escape(texts[column.key]))
        if column.key == "origin" and link:
            text = f'<a href="{escape(link)}" rel="noreferrer">{text}</a>'
        cells.append(f"<td>{text}")
    return Markup("".join(cells))  # noqa: S704  each text is escaped above


MAX_PAGE_BYTES = 290_000
"""Bytes that histories may fill a page to; the table itself is never cut."""


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """What a served page adds: words on the queue, and how it asks whether it is stale.

    ``etag`` is the database's state that it shows; every ``poll_seconds`` it asks for the newest.
    """

    queue_text: str
    etag: str
    poll_seconds: float


def render(
    board: Board,
    histories: Iterable[RunHistory] = (),
    *,
    live: LiveStatus | None = None,
    classifier: Classifier | None = None,
) -> str:
    """Return the page of a board; the same arguments always give the same text.

    ``histories`` are shown in their order for as long as the page stays within ``MAX_PAGE_BYTES``,
    besides a deployed network that the page runs.
    """
    page_sections = build_sections(board)
    bare_page = _render_page(page_sections, [], live, None)
    bytes_left = MAX_PAGE_BYTES - len(bare_page.encode())
    kept_histories: list[RunHistoryView] = []
    template = _environment().get_template("history.html")
    for history in map(history_view, histories):
        bytes_left -= (
            len(template.render(history=history, number=len(kept_histories)).encode())
            + _HISTORY_ENTRY_BYTES
        )
        if bytes_left < 0:
            break
        kept_histories.append(history)
    if not kept_histories and classifier is None:
        return bare_page
    return _render_page(page_sections, kept_histories, live, classifier)


_HISTORY_ENTRY_BYTES = 120  # bytes of a history's entry in the list of runs


def content_security_policy(*, live: bool = False, classifies: bool = False) -> str:
    """Return the Content-Security-Policy of the page; a served one may ask its own server."""
    scripts = ["page.js", "classifier.js"] if classifies else ["page.js"]
    parts = [
        "default-src 'none'",
        f"style-src '{_digest(_style())}'",
        " ".join(["script-src", *(f"'{_digest(_asset(name))}'" for name in scripts)]),
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if live:
        parts.append("connect-src 'self'")
    return "; ".join(parts)


def _render_page(
    page_sections: Sequence[Section],
    histories: Sequence[RunHistoryView],
    live: LiveStatus | None,
    classifier: Classifier | None,
) -> str:
    from markupsafe import Markup

    template = _environment().get_template("page.html")
    return template.render(
        sections=page_sections,
        columns=PAGE_COLUMNS,
        histories=histories,
        shown_run_ids={history.run_id for history in histories},
        live=live,
        classifier=classifier,
        policy=content_security_policy(live=live is not None, classifies=classifier is not None),
        style=Markup(_style()),  # noqa: S704  our own file, no word of another's
        script=Markup(_asset("page.js")),  # noqa: S704
        classifier_script=Markup(_asset("classifier.js")),  # noqa: S704
        data=_script_data(page_sections, live),
    )


def _script_data(page_sections: Sequence[Section], live: LiveStatus | None) -> dict[str, object]:
    """Return what the script needs beside the page's own text: which mark is of which rows."""
    rows = [
        [
            [list(mark.rows) for mark in drawing.marks]
            for drawing in (*section.drawings, *section.networks)
        ]
        for section in page_sections
    ]
    return {
        "rows": rows,
        "poll_seconds": live.poll_seconds if live else 0,
        "etag": live.etag if live else "",
    }


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@cache
def _asset(name: str) -> str:
    return files("lsqctl.leaderboard.page").joinpath(name).read_text("utf-8")


@cache
def _style() -> str:
    """Return the style, which names a column by its key: ``nth-child(@top1_mean)``."""
    positions = {column.key: n for n, column in enumerate(PAGE_COLUMNS, 1)}
    return re.sub(r"@(\w+)\)", lambda match: f"{positions[match[1]]})", _asset("page.css"))


@cache
def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
