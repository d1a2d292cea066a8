"""The leaderboard of a store: local and published results, ranked, and written to files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lsqctl.atomic_write import check_overwrite, write_atomic
from lsqctl.filters.expression import Comparison, Expression, narrowed, split_conjunction
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


@dataclass(frozen=True, slots=True)
class BoardSelection:
    """Which results are ranked, and how: of one dataset, or of all that have a row.

    Published rows stand beside local runs of their dataset; of one without any, ``auto`` shows
    those of the LSQ paper's page, unless that dataset is asked for. ``per_run``, ``best_seed`` and
    ``pareto`` are as in ``rank``.
    """

    dataset: str | None = None
    show_published: ShowPublished = "auto"
    per_run: bool = False
    best_seed: bool = False
    pareto: Cost = "gbops"

    def shows(self, published: PublishedResult, local_datasets: set[str]) -> bool:
        """Return whether a published result stands on the board beside local runs of datasets."""
        if self.show_published == "auto":
            wanted = {*local_datasets, self.dataset}
            return published.page == PWC_PAGE or published.dataset in wanted
        return self.show_published == "all"


EVERYTHING = BoardSelection()
AS_RANKED = BoardQuery()


def board_filter(where: str | None, *, user: str | None = None) -> Expression | None:
    """Return the filter of a board's rows; ``user`` keeps the runs that this one submitted.

    Raises FilterError.
    """
    tree = None if where is None else parse(where, WHERE_COLUMNS)
    return tree if user is None else narrowed(tree, Comparison("user", "=", (user,)))


def build_board(
    store: Store | None,
    selection: BoardSelection = EVERYTHING,
    query: BoardQuery = AS_RANKED,
    *,
    settings: Settings | None = None,
) -> Board:
    """Return the ranked board; without a store it has published results only.

    ``settings`` name the workspace whose added published rows count as well. Conditions of the
    query's ``where`` on what a run has choose what is ranked; those on what only ranking makes
    (``rank``, ``top1_mean``, ``pareto_optimal``, …) choose what is shown of it. Raises UsageError,
    NotFound.
    """
    run_filter, row_filter = split_conjunction(query.where, RUN_SOURCES)
    rows = filter_runs(store.results.board_rows() if store else [], run_filter)
    local_datasets = {row.dataset for row in rows}
    all_published = load_published_results(settings)
    published = filter_published(
        (result for result in all_published if selection.shows(result, local_datasets)), run_filter
    )
    ranked = rank(
        rows,
        published,
        dataset=selection.dataset,
        baselines=all_published,
        per_run=selection.per_run,
        best_seed=selection.best_seed,
        pareto=selection.pareto,
    )
    return apply_query(ranked, replace(query, where=row_filter))


def build_pwc_view(
    store: Store | None, settings: Settings, selection: BoardSelection
) -> list[PwcLine]:
    """Return published and local results in the form of a Papers With Code page.

    Rows of the LSQ paper's page, then of imported tables, then local ones; ``show_published`` none
    leaves the first two out.
    """
    rows = store.results.board_rows() if store else []
    local_board = rank(rows, per_run=selection.per_run, best_seed=selection.best_seed)
    return pwc_lines(
        local_board,
        load_workspace_results(settings).pwc_rows,
        dataset=selection.dataset,
        include_published=selection.show_published != "none",
    )


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
