"""The leaderboard of a store: own results, published references, and files of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lsqctl.api.outfile import check_free, write_whole
from lsqctl.api.published import added_rows, all_references
from lsqctl.filters.names import OF_RESULTS
from lsqctl.filters.parsing import parse
from lsqctl.filters.splitting import split
from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.choosing import choose_failed, choose_references
from lsqctl.leaderboard.output import PLAIN, Look, format_of, write
from lsqctl.leaderboard.page_lines import Line, lines_csv, lines_json, lines_markdown, page_lines
from lsqctl.leaderboard.rank import Cost, rank
from lsqctl.leaderboard.references import PWC_PAGE, Reference
from lsqctl.leaderboard.shape import WHERE_COLUMNS, Shape, shape
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.store import Store


Shown = Literal["auto", "all", "none"]
LINE_FORMATS = {"csv": lines_csv, "json": lines_json, "md": lines_markdown}


def board(
    store: Store,
    *,
    dataset: str | None = None,
    references: Shown = "auto",
    per_run: bool = False,
    best_seed: bool = False,
    pareto: Cost = "gbops",
    settings: Settings | None = None,
    where: str | None = None,
    group_by: Sequence[str] = (),
    sort: Sequence[str] = (),
    limit: int | None = None,
) -> Board:
    """Return the ranked board of one dataset, or of all that have a row.

    ``settings`` name the workspace whose added published rows count as well; ``best_seed``,
    ``per_run`` and ``pareto`` are as in ``rank``, the last three as in ``Shape``. Published rows
    stand beside own runs of their dataset; of a dataset without own runs, ``auto`` shows those of
    the LSQ paper's page, unless that dataset is asked for. Conditions of ``where`` on what a run
    has choose what is ranked; those on what only ranking makes (``rank``, ``top1_mean``,
    ``pareto_optimal``, …) choose what is shown of it. Raises FilterError, UsageError, NotFound.
    """
    tree = None if where is None else parse(where, WHERE_COLUMNS)
    before, after = split(tree, OF_RESULTS)
    wanted = Shape(after, tuple(group_by), tuple(sort), limit)
    rows = choose_failed(store.board_rows(before), before)
    own = {row.dataset for row in rows} | ({dataset} if dataset else set())
    known = all_references(settings)
    published = choose_references((r for r in known if _shown(r, references, own)), before)
    how: dict[str, Any] = {"per_run": per_run, "best_seed": best_seed, "pareto": pareto}
    return shape(rank(rows, published, dataset=dataset, papers=known, **how), wanted)


def page_view(
    store: Store,
    settings: Settings,
    *,
    dataset: str | None = None,
    references: Shown = "auto",
    per_run: bool = False,
    best_seed: bool = False,
) -> list[Line]:
    """Return published and own results in the form of a Papers With Code page.

    The lines of the LSQ paper's page, then imported tables, then own runs; ``references`` none
    leaves the first two out.
    """
    own = rank(store.board_rows(), per_run=per_run, best_seed=best_seed)
    return page_lines(own, added_rows(settings).rows, dataset=dataset, page=references != "none")


def _shown(reference: Reference, shown: Shown, own: set[str]) -> bool:
    if shown == "auto":
        return reference.page == PWC_PAGE or reference.dataset in own
    return shown == "all"


def export(
    board: Board,
    path: Path,
    *,
    style: str | None = None,
    look: Look = PLAIN,
    force: bool = False,
) -> int:
    """Write the board to a file, in ``style`` or by the file's ending; return its bytes.

    Raises UsageError for another ending, and where the file exists and ``force`` is not given.
    The file appears whole or not at all; a link is never written through.
    """
    style = format_of(path, style)
    check_free(path, force=force)
    data = write(board, style, look).encode("utf-8", "backslashreplace")
    write_whole(path, data, force=force)
    return len(data)
