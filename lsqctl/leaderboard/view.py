"""The board as cells to draw: words, alignment, emphasis, and which column gives way first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lsqctl.leaderboard.board import Board, Entry, Table
from lsqctl.leaderboard.captions import footer, notes, title
from lsqctl.leaderboard.clean import clean

OWN, PUBLISHED, FULL_PRECISION = "●", "○", "◌"
NONE = "–"
MINUS = "−"

Align = Literal["left", "right"]
Tone = Literal["", "good", "bad"]


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """A column's heading. The column with the lowest ``drop`` goes first; 0 never goes."""

    key: str
    title: str
    align: Align
    drop: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell, safe to print as it is. ``link`` is a URL that the text stands for.

    ``place`` is 1 for the best value of its column, 2 for the second best, else 0.
    """

    text: str
    strong: bool = False
    dim: bool = False
    tone: Tone = ""
    link: str = ""
    place: int = 0


@dataclass(frozen=True, slots=True)
class ViewTable:
    """One dataset's table; each row has one cell a column.

    ``notes`` has a line to go under each row, empty where there is none; or is empty itself.
    """

    title: str
    columns: tuple[ViewColumn, ...]
    rows: tuple[tuple[Cell, ...], ...]
    footer: str
    notes: tuple[str, ...] = ()

    def noted(self) -> Iterator[tuple[tuple[Cell, ...], str]]:
        """Yield each row with the line under it."""
        return zip(self.rows, self.notes or ("",) * len(self.rows), strict=True)


COLUMNS: tuple[ViewColumn, ...] = (
    ViewColumn("rank", "#", "left"),
    ViewColumn("model", "model", "left"),
    ViewColumn("w_bits", "W", "right"),
    ViewColumn("a_bits", "A", "right"),
    ViewColumn("top1", "Top-1 %", "left"),
    ViewColumn("delta_fp32", "Δ FP", "right", drop=4),
    ViewColumn("size", "size", "right", drop=2),
    ViewColumn("bops", "BOPs", "right", drop=1),
    ViewColumn("n", "n", "right", drop=3),
    ViewColumn("source", "source", "left", drop=5),
)


def view(board: Board) -> tuple[ViewTable, ...]:
    """Return the tables of a board as cells, in the board's order."""
    return tuple(_view_table(table, board) for table in board.tables)


def _view_table(table: Table, board: Board) -> ViewTable:
    shared = Counter(entry.rank for entry in table.rows)
    accuracies = zip(_accuracies(table.rows), places(table.rows), strict=True)
    rows = tuple(
        _cells(entry, Cell(text, strong=place == 1, place=place), tied=shared[entry.rank] > 1)
        for entry, (text, place) in zip(table.rows, accuracies, strict=True)
    )
    heading = title(table, best_seed=board.best_seed)
    return ViewTable(heading, COLUMNS, rows, footer(table), notes(table, board))


def places(entries: Sequence[Entry]) -> list[int]:
    """Return 1 for each entry of the best rank shown, 2 for each of the next, else 0."""
    best = sorted({entry.rank for entry in entries if entry.rank is not None})[:2]
    return [1 + best.index(entry.rank) if entry.rank in best else 0 for entry in entries]


def _cells(entry: Entry, accuracy: Cell, *, tied: bool) -> tuple[Cell, ...]:
    place = "" if entry.rank is None else f"{entry.rank}{'=' if tied else ''}"
    return (
        Cell(place, strong=True),
        Cell(marked(entry), dim=not entry.own),
        Cell(str(entry.w_bits)),
        Cell(str(entry.a_bits)),
        accuracy,
        _delta(entry.delta_fp32),
        _optional(None if entry.size_bytes is None else bytes_text(entry.size_bytes)),
        _optional(None if entry.gbops is None else bops_text(entry.gbops * 1e9)),
        _optional(None if entry.n_seeds is None else str(entry.n_seeds)),
        _source(entry),
    )


def bytes_text(size: float) -> str:
    """Return a size for people: ``140 kB``, ``1.08 MB`` (powers of ten)."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= 0.9995 * unit:  # what would round up to 1000 of the smaller unit
            return f"{three_digits(size / unit)} {name}"
    return f"{size:.0f} B"


def bops_text(bops: float) -> str:
    """Return bit operations for people: ``0.67 G``, ``42.0 G``; ``8.10 M`` below 0.1 G."""
    unit, name = (1e9, "G") if bops >= 1e8 else (1e6, "M")
    return f"{three_digits(bops / unit)} {name}"


def signed(value: float) -> str:
    """Return a difference with its sign, two decimals: ``+0.32``, ``−1.12``, ``0.00``."""
    text = f"{abs(value):.2f}"
    if float(text) == 0:
        return text
    return f"{'+' if value > 0 else MINUS}{text}"


def three_digits(amount: float) -> str:
    """Return a number with three digits: ``0.67``, ``41.6``, ``1857``."""
    decimals = 0 if amount >= 99.95 else 1 if amount >= 9.995 else 2
    return f"{amount:.{decimals}f}"


def _accuracies(entries: Sequence[Entry]) -> list[str]:
    means = [f"{entry.top1_mean:.2f}" for entry in entries]
    halves = [half_width(entry) for entry in entries]
    wide, wide_half = max(map(len, means), default=0), max(map(len, halves), default=0)
    return [
        f"{mean:>{wide}}{f' ±{half:>{wide_half}}' if half else ''}"
        for mean, half in zip(means, halves, strict=True)
    ]


def half_width(entry: Entry) -> str:
    """Return half the width of the interval, two decimals; empty where none is known."""
    if entry.top1_ci95_lo is None or entry.top1_ci95_hi is None:
        return ""
    return f"{(entry.top1_ci95_hi - entry.top1_ci95_lo) / 2:.2f}"


def marked(entry: Entry) -> str:
    """Return the model's name behind the sign of its origin, which colour alone never tells."""
    origin = OWN if entry.own else PUBLISHED
    return f"{FULL_PRECISION if entry.full_precision else origin} {clean(entry.model)}"


def _delta(delta: float | None) -> Cell:
    if delta is None:
        return Cell(NONE, dim=True)
    text = signed(delta)
    return Cell(text, tone="bad" if text[0] == MINUS else "good" if text[0] == "+" else "")


def _optional(text: str | None) -> Cell:
    return Cell(NONE, dim=True) if text is None else Cell(text)


def _source(entry: Entry) -> Cell:
    if not entry.own:
        url = entry.source_url or ""
        web = url.startswith(("https://", "http://")) and clean(url) == url
        return Cell(clean(entry.source_kind or "published"), dim=True, link=url if web else "")
    words = ["own"]
    if entry.verified:
        words.append("verified")
    if entry.verified is False:
        words.append("verification failed")
    if entry.n_failed:
        words.append(f"{entry.n_failed} failed")
    if entry.selected_on_test:
        words.append("selected on test")
    if entry.suspect:
        words.append("suspect")
    bad = bool(entry.n_failed or entry.suspect) or entry.verified is False
    return Cell(", ".join(words), tone="bad" if bad else "")
