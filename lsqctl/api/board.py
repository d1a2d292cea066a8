"""The leaderboard of a store: own results, published references, and files of both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lsqctl.api.outfile import check_free, write_whole
from lsqctl.api.published import added_rows, all_references
from lsqctl.errors import UsageError
from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.formats import to_csv, to_json, to_markdown
from lsqctl.leaderboard.page_lines import Line, lines_csv, lines_json, lines_markdown, page_lines
from lsqctl.leaderboard.rank import Cost, rank
from lsqctl.leaderboard.references import PWC_PAGE, Reference
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.store import Store


Shown = Literal["auto", "all", "none"]
FORMATS = {"csv": to_csv, "json": to_json, "md": to_markdown}
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
) -> Board:
    """Return the ranked board of one dataset, or of all that have a row.

    ``settings`` name the workspace whose added published rows count as well; ``best_seed``,
    ``per_run`` and ``pareto`` as in ``rank``.

    Published rows stand beside own runs of their dataset; of a dataset without own runs, ``auto``
    shows those of the LSQ paper's page, unless that dataset is asked for.
    """
    rows = store.board_rows()
    own = {row.dataset for row in rows} | ({dataset} if dataset else set())
    known = all_references(settings)
    published = [one for one in known if _shown(one, references, own)]
    how: dict[str, Any] = {"per_run": per_run, "best_seed": best_seed, "pareto": pareto}
    return rank(rows, published, dataset=dataset, papers=known, **how)


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


def export(board: Board, path: Path, *, force: bool = False) -> int:
    """Write the board to a .csv, .json or .md file by its ending; return the number of bytes.

    Raises UsageError for another ending, and where the file exists and ``force`` is not given.
    The file appears whole or not at all; a link is never written through.
    """
    ending = path.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise UsageError(f"{path}: export knows .csv, .json and .md, not `{path.suffix or path}`")
    check_free(path, force=force)
    data = FORMATS[ending](board).encode()
    write_whole(path, data, force=force)
    return len(data)
