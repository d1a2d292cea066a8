"""What the page shows: sections of rows, charts and histories, as plain values for a template."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from lsqctl.leaderboard.board import Board, Entry, Table
from lsqctl.leaderboard.charts.accuracy import Cost, against_bits, against_cost, look_of, unit_of
from lsqctl.leaderboard.charts.chart import Chart
from lsqctl.leaderboard.clean import clean
from lsqctl.leaderboard.page.drawing import LOW, SMALL, WIDE, Drawing, draw
from lsqctl.leaderboard.view import MINUS, ViewTable, signed, view

ROW_CLASSES = {"own": "o", "published": "p", "full": "f"}
_SIGNS = {"+": "g", MINUS: "w"}


@dataclass(frozen=True, slots=True)
class History:
    """What one run did over time: its charts, by the id of the run and the name of its row."""

    run_id: str
    model: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table as texts, empty where unknown.

    ``look`` is o, p or f: own, published, full precision; ``sign`` is g or w, a gain or a loss.
    """

    look: str
    rank: str
    model: str
    w_bits: int
    a_bits: int
    top1: str
    half: str
    delta: str
    size: str
    bops: str
    seeds: str
    source: str
    link: str
    front: bool
    sign: str
    run_id: str


@dataclass(frozen=True, slots=True)
class ShownHistory:
    """A run's history as drawings."""

    run_id: str
    model: str
    drawings: tuple[Drawing, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One dataset: its rows with the units of their columns, and its charts.

    ``deviations`` are (model, where its recipe departs from the paper's), if they were asked for.
    """

    key: str
    title: str
    subtitle: str
    footer: str
    size_unit: str
    bops_unit: str
    rows: tuple[Row, ...]
    drawings: tuple[Drawing, ...]
    networks: tuple[Drawing, ...]
    deviations: tuple[tuple[str, str], ...] = ()


def sections(board: Board) -> list[Section]:
    """Return a section for each table of the board, in its order."""
    return [
        _section(f"d{number}", table, seen)
        for number, (table, seen) in enumerate(zip(board.tables, view(board), strict=True))
    ]


def shown(history: History) -> ShownHistory:
    """Return a run's history drawn."""
    drawings = tuple(draw(chart, LOW) for chart in history.charts if not chart.empty)
    return ShownHistory(history.run_id, clean(history.model), drawings)


def safe_link(url: str | None) -> str:
    """Return the URL if it leads to a web page, else nothing: it will stand in an href."""
    if not url or clean(url) != url or any(char.isspace() for char in url):
        return ""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return url if parts.scheme in ("http", "https") and parts.netloc else ""


def _section(key: str, table: Table, seen: ViewTable) -> Section:
    dataset, _, rest = seen.title.partition(" · ")
    units = {cost: unit_of(table, cost) for cost in _COSTS}
    columns = {cost: _aligned(table.rows, cost, units[cost][0]) for cost in _COSTS}
    charts = [against_cost(table, cost) for cost in _COSTS]
    return Section(
        key=key,
        title=dataset,
        subtitle=rest,
        footer=seen.footer,
        size_unit=units["size_bytes"][1],
        bops_unit=units["gbops"][1],
        rows=tuple(_rows(table, columns["size_bytes"], columns["gbops"])),
        drawings=tuple(draw(one, WIDE) for one in charts if _worth(one)),
        networks=tuple(draw(one, SMALL) for one in against_bits(table) if _worth(one)),
        deviations=tuple(
            (clean(row.model), note)
            for row, note in zip(table.rows, seen.notes, strict=False)
            if note
        ),
    )


_COSTS: tuple[Cost, ...] = ("size_bytes", "gbops")


def _worth(chart: Chart) -> bool:
    """Return whether there are two points or more to compare."""
    return sum(len(one.points) for one in chart.series if one.look not in ("front", "rule")) > 1


def _aligned(rows: Sequence[Entry], cost: Cost, unit: float) -> list[str]:
    """Return a column of numbers with as many decimals as show the smallest, so that they align."""
    values = [getattr(row, cost) for row in rows]
    smallest = min((value / unit for value in values if value), default=1.0)
    decimals = min(3, max(0, 2 - math.floor(math.log10(smallest))))
    return ["" if value is None else f"{value / unit:,.{decimals}f}" for value in values]


def _rows(table: Table, sizes: Sequence[str], bops: Sequence[str]) -> Iterable[Row]:
    shared = Counter(entry.rank for entry in table.rows)
    for entry, size, bop in zip(table.rows, sizes, bops, strict=True):
        place = "" if entry.rank is None else f"{entry.rank}{'=' if shared[entry.rank] > 1 else ''}"
        half = _half(entry)
        delta = "" if entry.delta_fp32 is None else signed(entry.delta_fp32)
        yield Row(
            look=ROW_CLASSES[look_of(entry)],
            rank=place,
            model=clean(entry.model),
            w_bits=entry.w_bits,
            a_bits=entry.a_bits,
            top1=f"{entry.top1_mean:.2f}",
            half="" if half is None else f"±{half:.2f}",
            delta=delta,
            size=size,
            bops=bop,
            seeds="" if entry.n_seeds is None else str(entry.n_seeds),
            source=_source(entry),
            link="" if entry.own else safe_link(entry.source_url),
            front=bool(entry.pareto_optimal) and not entry.full_precision,
            sign=_SIGNS.get(delta[:1], ""),
            run_id=entry.best_run or "",
        )


def _half(entry: Entry) -> float | None:
    if entry.top1_ci95_lo is None or entry.top1_ci95_hi is None:
        return None
    return (entry.top1_ci95_hi - entry.top1_ci95_lo) / 2


def _source(entry: Entry) -> str:
    if not entry.own:
        return clean(entry.source_kind or "published")
    words = ["own"]
    if entry.verified is not None:
        words.append("verified" if entry.verified else "verification failed")
    if entry.n_failed:
        words.append(f"{entry.n_failed} failed")
    if entry.selected_on_test:
        words.append("selected on test")
    return ", ".join(words)
