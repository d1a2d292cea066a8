"""The page: rows, charts and histories as values, filled into a template that trusts nobody.

The policy names the style and the script by their hashes; nothing is loaded, and what a name
contains can become neither markup nor code nor a request.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lsqctl.leaderboard.board import Board, Entry, Table
from lsqctl.leaderboard.charts.accuracy import (
    Cost,
    accuracy_by_bits,
    accuracy_by_cost,
    cost_unit,
    series_style,
)
from lsqctl.leaderboard.charts.chart import Chart
from lsqctl.leaderboard.page.svg_layout import LOW, SMALL, WIDE, Drawing, layout_chart
from lsqctl.leaderboard.table_view import MINUS, ViewTable, board_view, format_signed
from lsqctl.text import sanitize

if TYPE_CHECKING:
    from jinja2 import Environment

ROW_CSS_CLASSES = {"local": "o", "published": "p", "full": "f"}
_DELTA_CSS_CLASSES = {"+": "g", MINUS: "w"}


@dataclass(frozen=True, slots=True)
class RunHistory:
    """What one run did over time: its charts, by the id of the run and the name of its row."""

    run_id: str
    model: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True, slots=True)
class PageRow:
    """One row of the table as texts, empty where unknown.

    ``css_class`` is o, p or f: local, published, fp32; ``delta_css_class`` g or w: gain, loss.
    """

    css_class: str
    rank: str
    model: str
    weight_bits: int
    act_bits: int
    top1: str
    half_width: str
    delta: str
    size: str
    bops: str
    seeds: str
    source: str
    link: str
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
    """One dataset: its rows with the units of their columns, and its charts.

    ``deviations`` are (model, where its recipe deviates from the paper's), if they were asked for.
    """

    key: str
    title: str
    subtitle: str
    footer: str
    size_unit: str
    bops_unit: str
    rows: tuple[PageRow, ...]
    drawings: tuple[Drawing, ...]
    networks: tuple[Drawing, ...]
    deviations: tuple[tuple[str, str], ...] = ()


def build_sections(board: Board) -> list[Section]:
    """Return a section for each table of the board, in its order."""
    return [
        _section(f"d{number}", table, view_table)
        for number, (table, view_table) in enumerate(
            zip(board.tables, board_view(board), strict=True)
        )
    ]


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
    columns = {cost: _align_numbers(table.rows, cost, units[cost][0]) for cost in _COSTS}
    charts = [accuracy_by_cost(table, cost) for cost in _COSTS]
    return Section(
        key=key,
        title=dataset,
        subtitle=rest,
        footer=view_table.footer,
        size_unit=units["size_bytes"][1],
        bops_unit=units["gbops"][1],
        rows=tuple(_page_rows(table, columns["size_bytes"], columns["gbops"])),
        drawings=tuple(layout_chart(chart, WIDE) for chart in charts if _is_worth_drawing(chart)),
        networks=tuple(
            layout_chart(chart, SMALL)
            for chart in accuracy_by_bits(table)
            if _is_worth_drawing(chart)
        ),
        deviations=tuple(
            (sanitize(row.model), note)
            for row, note in zip(table.rows, view_table.notes, strict=False)
            if note
        ),
    )


_COSTS: tuple[Cost, ...] = ("size_bytes", "gbops")


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


def _page_rows(table: Table, sizes: Sequence[str], bops: Sequence[str]) -> Iterable[PageRow]:
    rank_counts = Counter(entry.rank for entry in table.rows)
    for entry, size, bop in zip(table.rows, sizes, bops, strict=True):
        rank_text = (
            ""
            if entry.rank is None
            else f"{entry.rank}{'=' if rank_counts[entry.rank] > 1 else ''}"
        )
        half_width = _half_width(entry)
        delta = "" if entry.delta_fp32 is None else format_signed(entry.delta_fp32)
        yield PageRow(
            css_class=ROW_CSS_CLASSES[series_style(entry)],
            rank=rank_text,
            model=sanitize(entry.model),
            weight_bits=entry.weight_bits,
            act_bits=entry.act_bits,
            top1=f"{entry.top1_mean:.2f}",
            half_width="" if half_width is None else f"±{half_width:.2f}",
            delta=delta,
            size=size,
            bops=bop,
            seeds="" if entry.n_seeds is None else str(entry.n_seeds),
            source=_source_text(entry),
            link="" if entry.is_local else safe_link(entry.source_url),
            is_pareto=bool(entry.pareto_optimal) and not entry.is_full_precision,
            delta_css_class=_DELTA_CSS_CLASSES.get(delta[:1], ""),
            run_id=entry.best_run or "",
        )


def _half_width(entry: Entry) -> float | None:
    if entry.top1_ci95_lo is None or entry.top1_ci95_hi is None:
        return None
    return (entry.top1_ci95_hi - entry.top1_ci95_lo) / 2


def _source_text(entry: Entry) -> str:
    if not entry.is_local:
        return sanitize(entry.source_kind or "published")
    parts = ["local"]
    if entry.verified is not None:
        parts.append("verified" if entry.verified else "verification failed")
    if entry.n_failed:
        parts.append(f"{entry.n_failed} failed")
    if entry.selected_on_test:
        parts.append("selected on test")
    return ", ".join(parts)


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
    board: Board, histories: Iterable[RunHistory] = (), *, live: LiveStatus | None = None
) -> str:
    """Return the page of a board; the same arguments always give the same text.

    ``histories`` are shown in their order for as long as the page stays within ``MAX_PAGE_BYTES``.
    """
    page_sections = build_sections(board)
    bare_page = _render_page(page_sections, [], live)
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
    return _render_page(page_sections, kept_histories, live) if kept_histories else bare_page


_HISTORY_ENTRY_BYTES = 120  # bytes of a history's entry in the list of runs


def content_security_policy(*, live: bool = False) -> str:
    """Return the Content-Security-Policy of the page; a served one may ask its own server."""
    parts = [
        "default-src 'none'",
        f"style-src '{_digest('page.css')}'",
        f"script-src '{_digest('page.js')}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if live:
        parts.append("connect-src 'self'")
    return "; ".join(parts)


def _render_page(
    page_sections: Sequence[Section], histories: Sequence[RunHistoryView], live: LiveStatus | None
) -> str:
    from markupsafe import Markup

    template = _environment().get_template("page.html")
    return template.render(
        sections=page_sections,
        histories=histories,
        shown_run_ids={history.run_id for history in histories},
        live=live,
        policy=content_security_policy(live=live is not None),
        style=Markup(_asset("page.css")),  # noqa: S704  our own file, no word of another's
        script=Markup(_asset("page.js")),  # noqa: S704
        data=_script_data(page_sections, live),
    )


def _script_data(page_sections: Sequence[Section], live: LiveStatus | None) -> dict[str, Any]:
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
def _digest(name: str) -> str:
    digest = hashlib.sha256(_asset(name).encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
