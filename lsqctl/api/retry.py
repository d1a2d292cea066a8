"""Put a run back into the queue, with its checkpoints or without."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from lsqctl.run import RunState
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.store import Store


def retry_run(
    store: Store, settings: Settings, run_id: str, *, from_scratch: bool = False
) -> RunState:
    """Retry a failed or cancelled run and return its state; from scratch drops its checkpoints.

    Raises IllegalTransition for a run in any other state, before anything is removed.
    """
    if from_scratch and store.detail(run_id).run.state in {RunState.FAILED, RunState.CANCELLED}:
        for folder in settings.run_dir(run_id).glob("ckpt*"):  # before anyone can claim it
            shutil.rmtree(folder, ignore_errors=True)
    return store.retry(run_id, from_scratch=from_scratch)
