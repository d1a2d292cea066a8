"""Rank runs and published rows by Top-1: rows in, tables out.  No database, no terminal."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lsqctl.datasets.data_digest import evaluation_keys
from lsqctl.errors import NotFound, UsageError
from lsqctl.events import BoardRow
from lsqctl.leaderboard.board import Board, Counts, Table
from lsqctl.leaderboard.entries import (
    PaperBaselines,
    flag_suspect,
    local_entry,
    paper_baselines,
    published_entry,
    undominated,
)
from lsqctl.leaderboard.published_results import PublishedResult
from lsqctl.leaderboard.run_group import (
    RunGroup,
    group_of,
    recency_key,
    select_best_run,
)
from lsqctl.leaderboard.schema import Entry
from lsqctl.run import RECORDED, RunState
from lsqctl.text import did_you_mean

Cost = Literal["gbops", "size_bytes"]

_ENDED_STATES = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


def rank(
    rows: Sequence[BoardRow],
    published: Sequence[PublishedResult] = (),
    *,
    dataset: str | None = None,
    best_seed: bool = False,
    per_run: bool = False,
    pareto: Cost = "gbops",
    baselines: Sequence[PublishedResult] = (),
) -> Board:
    """Return one table a dataset and set of evaluated images, local and published rows together.

    A group is a recipe without its seed; the newest run of each seed counts, by its headline
    result. ``rank`` is 1 + the rows of the table whose whole 95 % interval lies above the row's,
    so that what cannot be told apart shares a rank. A row without an interval is a point; a row
    in full precision is shown without a rank. ``per_run`` makes each run a row; ``best_seed``
    keeps the best seed of each group, and the row's notes say so. ``pareto`` is the cost that
    Top-1 is weighed against. Local rows are held against ``baselines`` to find suspect ones,
    whether those are shown or not. The result does not depend on the order of what comes in.

    Raises NotFound for a ``dataset`` that nothing on the board is of.
    """
    if best_seed and per_run:
        raise UsageError("choose either each group's best seed or one row for each run, not both")
    ended_rows = [row for row in rows if row.headline and row.state in _ENDED_STATES]
    datasets = {row.dataset for row in ended_rows} | {result.dataset for result in published}
    if dataset is not None:
        _check_dataset(dataset, datasets)
        datasets &= {dataset}
    paper_results = paper_baselines(baselines)
    tables = tuple(
        _build_table(
            comparable,
            _group_runs(comparable.rows, per_run=per_run),
            best_seed=best_seed,
            pareto=pareto,
            baselines=paper_results,
        )
        for comparable in _comparable_sets(ended_rows, published, datasets)
    )
    shown = tuple(table for table in tables if table.rows or table.counts.runs)
    return Board(shown, best_seed=best_seed, per_run=per_run)


def _check_dataset(dataset: str, datasets: set[str]) -> None:
    if datasets and dataset not in datasets:
        raise NotFound(
            f"nothing on the board is of dataset `{dataset}`{did_you_mean(dataset, datasets)}; "
            f"it has {', '.join(sorted(datasets))}"
        )


_Group = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _ComparableSet:
    """What may be ranked together: rows of one dataset, evaluated on the same images.

    ``group`` tells the images from others of the dataset, ``published`` stand among them.
    """

    dataset: str
    group: _Group
    rows: Sequence[BoardRow]
    published: Sequence[PublishedResult]


def _comparable_sets(
    rows: Sequence[BoardRow], published: Sequence[PublishedResult], datasets: set[str]
) -> Iterator[_ComparableSet]:
    """Yield what makes a table: datasets with local runs first, published rows in their first."""
    local_datasets = {row.dataset for row in rows}
    for name in sorted(datasets, key=lambda name: (name not in local_datasets, name)):
        beside = [result for result in published if result.dataset == name]
        for group, image_set_rows in _sets_of_dataset([row for row in rows if row.dataset == name]):
            yield _ComparableSet(name, group, image_set_rows, beside)
            beside = []


def _sets_of_dataset(rows: list[BoardRow]) -> Iterator[tuple[_Group, list[BoardRow]]]:
    """Yield the rows of a dataset that may be ranked together, runs on parts of it at the end."""
    yield from _image_sets([row for row in rows if not row.partial])
    if partial_rows := [row for row in rows if row.partial]:
        for group, image_set_rows in _image_sets(partial_rows):
            yield (("part", "of the images"), *group), image_set_rows


def _image_sets(rows: list[BoardRow]) -> Iterable[tuple[_Group, list[BoardRow]]]:
    """Return the rows of a dataset that were evaluated on the same images, and how these are told.

    What was counted on different images cannot be ranked together. The images of most runs come
    first. A run without a result stands where its recipe has its newest one, else there.
    """
    counted = sorted((row for row in rows if _names_images(row)), key=recency_key)
    keys = evaluation_keys(row.data_digest for row in counted)
    digests = Counter(keys[row.data_digest] for row in counted)
    if len(digests) < 2:
        return [((), rows)]
    first, *others = sorted(digests, key=lambda digest: (-digests[digest], digest))
    homes = {row.recipe_sha256: keys[row.data_digest] for row in counted}
    by_digest: dict[str, list[BoardRow]] = defaultdict(list)
    for row in rows:
        home = homes.get(row.recipe_sha256, first)
        by_digest[keys[row.data_digest] if _names_images(row) else home].append(row)
    return [((("images", digest[:8]),), by_digest[digest]) for digest in (first, *others)]


def _names_images(row: BoardRow) -> bool:
    """Return whether it is known which images were evaluated; a recorded run may only say so."""
    return bool(row.n_total and (row.data_digest or row.origin != RECORDED))


def _group_runs(rows: Iterable[BoardRow], *, per_run: bool) -> list[list[BoardRow]]:
    groups: dict[tuple[str, str], list[BoardRow]] = defaultdict(list)
    for row in rows:
        groups[row.recipe_sha256, row.run_id if per_run else ""].append(row)
    return list(groups.values())


def _build_table(
    comparable: _ComparableSet,
    groups: list[list[BoardRow]],
    *,
    best_seed: bool,
    pareto: Cost,
    baselines: PaperBaselines,
) -> Table:
    counted_groups = [_counted_group(runs, best_seed=best_seed) for runs in groups]
    local_entries = [
        flag_suspect(local_entry(runs), runs, baselines) for runs in counted_groups if runs
    ]
    entries = [*local_entries, *map(published_entry, comparable.published)]
    entries = _with_pareto(_with_ranks(entries), pareto)
    counts = Counts(
        groups=len(local_entries),
        runs=sum(_count_runs(runs) for runs in groups),
        failed=sum(_count_runs(runs, RunState.FAILED) for runs in groups),
        cancelled=sum(_count_runs(runs, RunState.CANCELLED) for runs in groups),
        empty_groups=len(groups) - len(local_entries),
        published=len(comparable.published),
    )
    rank_counts = Counter(entry.rank for entry in entries if entry.rank is not None)
    tied_ranks = frozenset(rank for rank, count in rank_counts.items() if count > 1)
    rows = tuple(sorted(entries, key=_sort_key))
    return Table(comparable.dataset, rows, counts, comparable.group, tied_ranks=tied_ranks)


def _counted_group(group: list[BoardRow], *, best_seed: bool) -> RunGroup | None:
    counted_runs = _counted_runs(group)
    if not counted_runs:
        return None
    n_failed = _count_runs(group, RunState.FAILED)
    if best_seed:
        best = [select_best_run(counted_runs)]
        return group_of(best, n_failed=n_failed, best_of=len(counted_runs))
    return group_of(counted_runs, n_failed=n_failed)


def _counted_runs(group: list[BoardRow]) -> list[BoardRow]:
    # A seed run twice gives the same numbers again: counting both would shrink the interval.
    newest: dict[int, BoardRow] = {}
    for row in sorted(group, key=recency_key):
        if row.state is RunState.SUCCEEDED and row.n_correct is not None and row.n_total:
            newest[row.seed] = row
    return list(newest.values())


def _count_runs(group: list[BoardRow], state: RunState | None = None) -> int:
    return len({row.run_id for row in group if state in (None, row.state)})


def _with_ranks(entries: list[Entry]) -> list[Entry]:
    lows = sorted(entry.interval_low for entry in entries if not entry.is_full_precision)
    return [
        entry
        if entry.is_full_precision
        else replace(entry, rank=1 + len(lows) - bisect_right(lows, entry.interval_high))
        for entry in entries
    ]


def _with_pareto(entries: list[Entry], cost: Cost) -> list[Entry]:
    """Mark the entries that no other dominates, and those that are; without a cost neither."""
    kept = set(map(id, undominated(entries, cost)))
    return [
        entry if getattr(entry, cost) is None else replace(entry, pareto_optimal=id(entry) in kept)
        for entry in entries
    ]


def _sort_key(entry: Entry) -> tuple[bool, int, float, str, str, str, str]:
    # Two published rows may differ in anything; local ones are told apart by recipe and run.
    return (
        entry.rank is None,
        entry.rank or 0,
        -entry.top1_mean,
        entry.model,
        entry.recipe_sha256 or "",
        entry.best_run or "",
        "" if entry.is_local else repr(entry),
    )
