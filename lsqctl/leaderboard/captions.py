"""What stands above a table, under each of its rows, and below it."""

from __future__ import annotations

from collections.abc import Sequence

from lsqctl.leaderboard.board import Board, Counts, Entry, Table
from lsqctl.leaderboard.clean import clean
from lsqctl.text import pluralize


def notes(table: Table, board: Board) -> tuple[str, ...]:
    """Return the line that goes under each row; nothing where no row has one."""
    found = (board.departure(entry) for entry in table.rows)
    lines = tuple(clean(one.text) if one else "" for one in found)
    return lines if any(lines) else ()


def title(table: Table, *, best_seed: bool) -> str:
    """Return what a table shows: dataset, section, images, origins."""
    section = (f"{name} {clean(value)}" for name, value in table.group)
    parts = [
        clean(table.dataset),
        *section,
        f"Top-1 on {_images(table.rows)}",
        _whose(table.counts),
    ]
    if best_seed:
        parts.append("best seed of each recipe")
    return " · ".join(parts)


def _images(entries: Sequence[Entry]) -> str:
    splits = sorted({entry.split for entry in entries if entry.split})
    kind = f"{clean(splits[0])} images" if len(splits) == 1 else "images"
    totals = sorted({entry.eval_n for entry in entries if entry.eval_n})
    if not totals:
        return kind
    span = f"{totals[0]:,}" if len(totals) == 1 else f"{totals[0]:,} to {totals[-1]:,}"
    return f"{span} {kind}"


def _whose(counts: Counts) -> str:
    own = counts.groups or counts.empty_groups
    if own and counts.published:
        return "own runs and published rows"
    return "own runs" if own else "published rows"


def footer(table: Table) -> str:
    """Return what a table's rows were made from, and what is not shown of them."""
    counts = table.counts
    parts = []
    if counts.runs:
        lost = [(counts.failed, "failed"), (counts.cancelled, "cancelled")]
        told = ", ".join(f"{number} {what}" for number, what in lost if number)
        runs = f"{pluralize(counts.groups, 'group')}, {pluralize(counts.runs, 'run')}"
        parts.append(f"{runs} ({told})" if told else runs)
    if counts.empty_groups:
        parts.append(f"{pluralize(counts.empty_groups, 'group')} without a result")
    if counts.published:
        parts.append(pluralize(counts.published, "published row"))
    if table.hidden:
        parts.append(f"{pluralize(table.hidden, 'row')} not shown")
    return " · ".join([*parts, "a rank counts the rows that lie wholly above"])
