"""The leaderboard of a store: local and published results, ranked, and written to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lsqctl.atomic_write import check_overwrite, write_atomic
from lsqctl.filters.expression import Comparison, narrowed, split_conjunction
from lsqctl.filters.parser import parse
from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.board_query import (
    BoardQuery,
    apply_query,
    filter_published,
    filter_runs,
)
from lsqctl.leaderboard.output import DEFAULT_OPTIONS, OutputOptions, board_bytes, resolve_format
from lsqctl.leaderboard.published_results import PWC_PAGE, PublishedResult
from lsqctl.leaderboard.pwc_view import PwcLine, pwc_csv, pwc_json, pwc_lines, pwc_markdown
from lsqctl.leaderboard.rank import Cost, rank
from lsqctl.leaderboard.schema import RUN_SOURCES, WHERE_COLUMNS
from lsqctl.services.published_results import load_published_results, load_workspace_results
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.store import Store


ShowPublished = Literal["auto", "all", "none"]
PWC_FORMATS = {"csv": pwc_csv, "json": pwc_json, "md": pwc_markdown}


def build_board(
    store: Store | None,
    *,
    dataset: str | None = None,
    show_published: ShowPublished = "auto",
    per_run: bool = False,
    best_seed: bool = False,
    pareto: Cost = "gbops",
    settings: Settings | None = None,
    where: str | None = None,
    user: str | None = None,
    group_by: Sequence[str] = (),
    sort: Sequence[str] = (),
    limit: int | None = None,
) -> Board:
    """Return the ranked board of one dataset, or of all that have a row.

    Without a store it has published results only.

    ``settings`` name the workspace whose added published rows count as well; ``best_seed``,
    ``per_run`` and ``pareto`` are as in ``rank``, the rest as in ``BoardQuery``. Published rows
    stand beside local runs of their dataset; of one without any, ``auto`` shows those of the LSQ
    paper's page, unless that dataset is asked for. Conditions of ``where`` on what a run
    has choose what is ranked; those on what only ranking makes (``rank``, ``top1_mean``,
    ``pareto_optimal``, …) choose what is shown of it; ``user`` keeps the runs that this one
    submitted. Raises FilterError, UsageError, NotFound.
    """
    tree = None if where is None else parse(where, WHERE_COLUMNS)
    if user is not None:
        tree = narrowed(tree, Comparison("user", "=", (user,)))
    run_filter, row_filter = split_conjunction(tree, RUN_SOURCES)
    query = BoardQuery(row_filter, tuple(group_by), tuple(sort), limit)
    rows = filter_runs(store.results.board_rows() if store else [], run_filter)
    local_datasets = {row.dataset for row in rows} | ({dataset} if dataset else set())
    all_published = load_published_results(settings)
    published = filter_published(
        (r for r in all_published if _is_shown(r, show_published, local_datasets)), run_filter
    )
    ranked = rank(
        rows,
        published,
        dataset=dataset,
        baselines=all_published,
        per_run=per_run,
        best_seed=best_seed,
        pareto=pareto,
    )
    return apply_query(ranked, query)


def build_pwc_view(
    store: Store | None,
    settings: Settings,
    *,
    dataset: str | None = None,
    show_published: ShowPublished = "auto",
    per_run: bool = False,
    best_seed: bool = False,
) -> list[PwcLine]:
    """Return published and local results in the form of a Papers With Code page.

    Rows of the LSQ paper's page, then of imported tables, then local ones; ``show_published`` none
    leaves the first two out.
    """
    rows = store.results.board_rows() if store else []
    local_board = rank(rows, per_run=per_run, best_seed=best_seed)
    return pwc_lines(
        local_board,
        load_workspace_results(settings).pwc_rows,
        dataset=dataset,
        include_published=show_published != "none",
    )


def _is_shown(
    published: PublishedResult, show_published: ShowPublished, local_datasets: set[str]
) -> bool:
    if show_published == "auto":
        return published.page == PWC_PAGE or published.dataset in local_datasets
    return show_published == "all"


def export_board(
    board: Board,
    path: Path,
    *,
    output_format: str | None = None,
    options: OutputOptions = DEFAULT_OPTIONS,
    force: bool = False,
) -> int:
    """Write the board to a file, in ``output_format`` or by its ending; return its bytes.

    Raises UsageError for another ending, and where the file exists and ``force`` is not given.
    The file appears whole or not at all; a link is never written through.
    """
    output_format = resolve_format(path, output_format)
    check_overwrite(path, force=force)
    data = board_bytes(board, output_format, options)
    write_atomic(path, data, force=force)
    return len(data)
