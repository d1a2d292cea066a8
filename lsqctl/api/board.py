"""The leaderboard of a store: own results, published references, and files of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lsqctl.api.outfile import check_free, write_whole
from lsqctl.filters.names import OF_RESULTS
from lsqctl.filters.parsing import parse
from lsqctl.filters.splitting import split
from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.choosing import choose_failed, choose_references
from lsqctl.leaderboard.output import PLAIN, Look, format_of, write
from lsqctl.leaderboard.rank import rank
from lsqctl.leaderboard.references import PWC_PAGE, Reference, load_references
from lsqctl.leaderboard.shape import WHERE_COLUMNS, Shape, shape

if TYPE_CHECKING:
    from lsqctl.store import Store


Shown = Literal["auto", "all", "none"]


def board(
    store: Store,
    *,
    dataset: str | None = None,
    references: Shown = "auto",
    per_run: bool = False,
    best_seed: bool = False,
    where: str | None = None,
    group_by: Sequence[str] = (),
    sort: Sequence[str] = (),
    limit: int | None = None,
) -> Board:
    """Return the ranked board of one dataset, or of all that have a row.

    Published rows stand beside own runs of their dataset; of a dataset without own runs, ``auto``
    shows those of the LSQ paper's page, unless that dataset is asked for. Conditions of ``where``
    on what a run has choose what is ranked; those on what only ranking makes (``rank``,
    ``top1_mean``, ``pareto_optimal``, …) choose what is shown of it. ``group_by``, ``sort`` and
    ``limit`` are as in ``Shape``. Raises FilterError, UsageError, NotFound.
    """
    tree = None if where is None else parse(where, WHERE_COLUMNS)
    before, after = split(tree, OF_RESULTS)
    wanted = Shape(after, tuple(group_by), tuple(sort), limit)
    rows = choose_failed(store.board_rows(before), before)
    own = {row.dataset for row in rows} | ({dataset} if dataset else set())
    published = [one for one in load_references() if _shown(one, references, own)]
    published = choose_references(published, before)
    ranked = rank(rows, published, dataset=dataset, per_run=per_run, best_seed=best_seed)
    return shape(ranked, wanted)


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
