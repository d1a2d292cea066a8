"""Rank runs and published rows by Top-1: rows in, tables out.  No database, no terminal."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Literal

from lsqctl.errors import NotFound, UsageError, did_you_mean
from lsqctl.events import BoardRow
from lsqctl.leaderboard.board import Board, Counts, Entry, Table
from lsqctl.leaderboard.entries import best_run, newness, own_entry, published_entry
from lsqctl.leaderboard.references import Reference
from lsqctl.leaderboard.suspect import Yardsticks, with_doubts, yardsticks
from lsqctl.run import RunState

Cost = Literal["gbops", "size_bytes"]

_ENDED = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


def rank(
    rows: Sequence[BoardRow],
    references: Sequence[Reference] = (),
    *,
    dataset: str | None = None,
    best_seed: bool = False,
    per_run: bool = False,
    pareto: Cost = "gbops",
    papers: Sequence[Reference] = (),
) -> Board:
    """Return one table a dataset, with own groups and published rows ranked together.

    A group is a recipe without its seed; the newest run of each seed counts, by its headline
    result. ``rank`` is 1 + the rows of the table whose whole 95 % interval lies above the row's,
    so that what cannot be told apart shares a rank. A row without an interval is a point; a row
    in full precision is shown without a rank. ``per_run`` makes each run a row; ``best_seed``
    keeps the best seed of each group, and the row's notes say so. ``pareto`` is the cost that
    Top-1 is weighed against. Own rows are held against ``papers`` to find suspect ones, whether
    those are shown or not. The result does not depend on the order of what comes in.

    Raises NotFound for a ``dataset`` that nothing on the board is of.
    """
    if best_seed and per_run:
        raise UsageError("choose either each group's best seed or one row for each run, not both")
    ended = [row for row in rows if row.headline and row.state in _ENDED]
    known = {row.dataset for row in ended} | {reference.dataset for reference in references}
    if dataset is not None:
        _check_dataset(dataset, known)
        known &= {dataset}
    own = {row.dataset for row in ended}
    measures = yardsticks(papers)
    tables = tuple(
        _table(
            name,
            _groups((row for row in ended if row.dataset == name), per_run=per_run),
            [reference for reference in references if reference.dataset == name],
            best_seed=best_seed,
            pareto=pareto,
            papers=measures,
        )
        for name in sorted(known, key=lambda name: (name not in own, name))
    )
    return Board(tables, best_seed=best_seed, per_run=per_run)


def _check_dataset(dataset: str, known: set[str]) -> None:
    if known and dataset not in known:
        raise NotFound(
            f"nothing on the board is of dataset `{dataset}`{did_you_mean(dataset, known)}; "
            f"it has {', '.join(sorted(known))}"
        )


def _groups(rows: Iterable[BoardRow], *, per_run: bool) -> list[list[BoardRow]]:
    groups: dict[tuple[str, str], list[BoardRow]] = defaultdict(list)
    for row in rows:
        groups[row.recipe_sha256, row.run_id if per_run else ""].append(row)
    return list(groups.values())


def _table(
    dataset: str,
    groups: list[list[BoardRow]],
    references: list[Reference],
    *,
    best_seed: bool,
    pareto: Cost,
    papers: Yardsticks,
) -> Table:
    made = [(_entry(group, best_seed=best_seed), group) for group in groups]
    own = [with_doubts(entry, _counted(group), papers) for entry, group in made if entry]
    entries = [*own, *map(published_entry, references)]
    entries = _with_pareto(_with_ranks(entries), pareto)
    counts = Counts(
        groups=len(own),
        runs=sum(_n_runs(group) for group in groups),
        failed=sum(_n_runs(group, RunState.FAILED) for group in groups),
        cancelled=sum(_n_runs(group, RunState.CANCELLED) for group in groups),
        empty_groups=len(groups) - len(own),
        published=len(references),
    )
    return Table(dataset, tuple(sorted(entries, key=_order)), counts)


def _entry(group: list[BoardRow], *, best_seed: bool) -> Entry | None:
    counted = _counted(group)
    if not counted:
        return None
    n_failed = _n_runs(group, RunState.FAILED)
    if best_seed:
        return own_entry([best_run(counted)], n_failed=n_failed, best_of=len(counted))
    return own_entry(counted, n_failed=n_failed)


def _counted(group: list[BoardRow]) -> list[BoardRow]:
    # A seed run twice gives the same numbers again: counting both would shrink the interval.
    newest: dict[int, BoardRow] = {}
    for row in sorted(group, key=newness):
        if row.state is RunState.SUCCEEDED and row.n_correct is not None and row.n_total:
            newest[row.seed] = row
    return list(newest.values())


def _n_runs(group: list[BoardRow], state: RunState | None = None) -> int:
    return len({row.run_id for row in group if state in (None, row.state)})


def _with_ranks(entries: list[Entry]) -> list[Entry]:
    lows = sorted(entry.low for entry in entries if not entry.full_precision)
    return [
        entry
        if entry.full_precision
        else replace(entry, rank=1 + len(lows) - bisect_right(lows, entry.high))
        for entry in entries
    ]


def _with_pareto(entries: list[Entry], cost: Cost) -> list[Entry]:
    """Mark the entries that no other dominates; accuracies that tie count as equal.

    An entry is dominated by a cheaper one that is not wholly below it, and by one of equal cost
    that is wholly above it.
    """

    def price(entry: Entry) -> float:
        return float(getattr(entry, cost))

    unknown = [entry for entry in entries if getattr(entry, cost) is None]
    priced = sorted((e for e in entries if getattr(e, cost) is not None), key=price)
    marked, cheaper_high = list(unknown), float("-inf")
    for _, group in groupby(priced, key=price):
        equals = list(group)
        best_low = max(entry.low for entry in equals)
        for entry in equals:
            dominated = cheaper_high >= entry.low or best_low > entry.high
            marked.append(replace(entry, pareto_optimal=not dominated))
        cheaper_high = max(cheaper_high, *(entry.high for entry in equals))
    return marked


def _order(entry: Entry) -> tuple[bool, int, float, str, str, str, str]:
    # Two published rows may differ in anything; own ones are told apart by recipe and run.
    return (
        entry.rank is None,
        entry.rank or 0,
        -entry.top1_mean,
        entry.model,
        entry.recipe_sha256 or "",
        entry.best_run or "",
        "" if entry.own else repr(entry),
    )
