"""The leaderboard of a store: own results, published references, and files of both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lsqctl.api.output import write_output
from lsqctl.errors import UsageError
from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.formats import to_csv, to_json, to_markdown
from lsqctl.leaderboard.rank import rank
from lsqctl.leaderboard.references import PWC_PAGE, Reference, load_references

if TYPE_CHECKING:
    from lsqctl.store import Store


Shown = Literal["auto", "all", "none"]
FORMATS = {"csv": to_csv, "json": to_json, "md": to_markdown}


def board(
    store: Store,
    *,
    dataset: str | None = None,
    references: Shown = "auto",
    per_run: bool = False,
) -> Board:
    """Return the ranked board of one dataset, or of all that have a row.

    Published rows stand beside own runs of their dataset; of a dataset without own runs, ``auto``
    shows those of the LSQ paper's page, unless that dataset is asked for.
    """
    rows = store.board_rows()
    own = {row.dataset for row in rows} | ({dataset} if dataset else set())
    published = [one for one in load_references() if _shown(one, references, own)]
    return rank(rows, published, dataset=dataset, per_run=per_run)


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
    return write_output(path, FORMATS[ending](board).encode(), force=force)
