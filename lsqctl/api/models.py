"""Give a trained run back as a PyTorch model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsqctl.errors import NotFound
from lsqctl.settings import Settings, load_settings

if TYPE_CHECKING:
    from torch import nn


def load_model(run: str, *, settings: Settings | None = None) -> nn.Module:
    """Return the model of a run in evaluation mode, on the CPU, with its trained weights.

    ``run`` is an id, a unique prefix, a name or ``@last``.  The weights are those of the
    headline result, read from hash-checked bytes.  Raises NotFound for a run without a checkpoint,
    DataError for one whose bytes are damaged or gone.
    """
    from lsqctl.api.workspace import open_workspace
    from lsqctl.recipe import load_stored
    from lsqctl.training.restore import restore_model
    from lsqctl.worker.inputs import parent_checkpoint

    resolved = settings or load_settings()
    store = open_workspace(resolved)
    try:
        detail = store.detail(store.resolve(run).id)
        if not store.checkpoints(detail.run.id):
            raise NotFound(f"run {detail.run.id} ({detail.run.state}) has no checkpoint yet")
        checkpoint_dir = parent_checkpoint(store, detail.run.id, resolved.run_dir(detail.run.id))
    finally:
        store.close()
    return restore_model(load_stored(detail.recipe), checkpoint_dir)
