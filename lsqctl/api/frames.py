"""Give the board to Python as a pandas data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsqctl.settings import Settings, load_settings

if TYPE_CHECKING:
    from lsqctl.leaderboard.frame import DataFrame


def load_board(
    *,
    where: str | None = None,
    dataset: str | None = None,
    per_run: bool = False,
    include_published: bool = True,
    settings: Settings | None = None,
) -> DataFrame:
    """Return the board's rows, best first, with the columns of docs/csv.md; missing is ``pd.NA``.

    ``where`` is a filter as ``lsqctl leaderboard --where`` takes it, ``per_run`` makes a row of
    each run, ``include_published`` adds published rows of its datasets. Raises NotFound without a
    workspace, FilterError for a filter that is none.
    """
    from lsqctl.api.board import build_board
    from lsqctl.api.workspace import open_workspace
    from lsqctl.leaderboard.frame import to_frame

    resolved = settings or load_settings()
    store = open_workspace(resolved)
    try:
        return to_frame(
            build_board(
                store,
                where=where,
                dataset=dataset,
                per_run=per_run,
                show_published="auto" if include_published else "none",
                settings=resolved,
            )
        )
    finally:
        store.close()
