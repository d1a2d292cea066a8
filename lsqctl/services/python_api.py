"""What ``import lsqctl`` offers in Python: the board as a data frame, a trained run as a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsqctl.errors import NotFound
from lsqctl.settings import Settings, load_settings

if TYPE_CHECKING:
    from torch import nn

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
    from lsqctl.leaderboard.frame import to_frame
    from lsqctl.services.board import build_board
    from lsqctl.services.workspace import open_workspace

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


def load_model(run: str, *, settings: Settings | None = None) -> nn.Module:
    """Return the model of a run in evaluation mode, on the CPU, with its trained weights.

    ``run`` is an id, a unique prefix, a name or ``@last``.  The weights are those of the
    headline result, read from hash-checked bytes.  Raises NotFound for a run without a checkpoint,
    DataError for one whose bytes are damaged or gone.
    """
    from lsqctl.recipe import load_stored
    from lsqctl.services.workspace import open_workspace
    from lsqctl.training.restore import restore_model
    from lsqctl.worker.inputs import parent_checkpoint

    resolved = settings or load_settings()
    store = open_workspace(resolved)
    try:
        detail = store.runs.detail(store.runs.resolve(run).id)
        if not store.checkpoints.list(detail.run.id):
            raise NotFound(f"run {detail.run.id} ({detail.run.state}) has no checkpoint yet")
        checkpoint_dir = parent_checkpoint(store, detail.run.id, resolved.run_dir(detail.run.id))
    finally:
        store.close()
    return restore_model(load_stored(detail.recipe), checkpoint_dir)
