"""What stands above a table, under each of its rows, and below it."""

from __future__ import annotations

from collections.abc import Sequence

from lsqctl.leaderboard.board import Board, Counts, Entry, Table
from lsqctl.leaderboard.clean import sanitize
from lsqctl.text import pluralize


def row_notes(table: Table, board: Board) -> tuple[str, ...]:
    """Return the line that goes under each row; nothing where no row has one."""
    deviations = (board.deviations_of(entry) for entry in table.rows)
    lines = tuple(sanitize(deviation.text) if deviation else "" for deviation in deviations)
    return lines if any(lines) else ()


def table_title(table: Table, *, best_seed: bool) -> str:
    """Return what a table shows: dataset, section, images, origins."""
    section = (f"{name} {sanitize(value)}" for name, value in table.group)
    parts = [
        sanitize(table.dataset),
        *section,
        f"Top-1 on {_images_text(table.rows)}",
        _origins_text(table.counts),
    ]
    if best_seed:
        parts.append("best seed of each recipe")
    return " · ".join(parts)


def _images_text(entries: Sequence[Entry]) -> str:
    splits = sorted({entry.split for entry in entries if entry.split})
    images = f"{sanitize(splits[0])} images" if len(splits) == 1 else "images"
    totals = sorted({entry.eval_n for entry in entries if entry.eval_n})
    if not totals:
        return images
    span = f"{totals[0]:,}" if len(totals) == 1 else f"{totals[0]:,} to {totals[-1]:,}"
    return f"{span} {images}"


def _origins_text(counts: Counts) -> str:
    n_local = counts.groups or counts.empty_groups
    if n_local and counts.published:
        return "own runs and published rows"
    return "own runs" if n_local else "published rows"


def table_footer(table: Table) -> str:
    """Return what a table's rows were made from, and what is not shown of them."""
    counts = table.counts
    parts = []
    if counts.runs:
        unsuccessful = [(counts.failed, "failed"), (counts.cancelled, "cancelled")]
        unsuccessful_text = ", ".join(
            f"{number} {state}" for number, state in unsuccessful if number
        )
        runs = f"{pluralize(counts.groups, 'group')}, {pluralize(counts.runs, 'run')}"
        parts.append(f"{runs} ({unsuccessful_text})" if unsuccessful_text else runs)
    if counts.empty_groups:
        parts.append(f"{pluralize(counts.empty_groups, 'group')} without a result")
    if counts.published:
        parts.append(pluralize(counts.published, "published row"))
    if table.hidden:
        parts.append(f"{pluralize(table.hidden, 'row')} not shown")
    return " · ".join([*parts, "a rank counts the rows that lie wholly above"])
