"""The view of an epoch, of which the teacher's logits come out of a store or go into it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsqctl.training.data_pipeline import Indices
from lsqctl.training.ranks import first_then_others
from lsqctl.training.runtime import check_own_stop
from lsqctl.training.session import TrainingSession
from lsqctl.training.teacher_logits import View


def load_teacher_view(session: TrainingSession) -> list[str]:
    """Take the view of the current epoch out of the store, computing what is missing.

    Returns what is to be said of it. The seconds count as the epoch's. A view whose logits are
    other ones than this run has seen before, as after a rebuild elsewhere, makes the run
    ``statistical``.
    """
    store, train_state = session.teacher_logits, session.train_state
    if store is None:
        return []
    index, started = session.pipeline.view_of(train_state.epoch), time.monotonic()

    def load() -> None:
        compute = partial(_teacher_logits, session, index)
        stop = partial(check_own_stop, session.context)
        session.teacher_view = store.load(index, compute, stop)

    first_then_others(session.context.world, load)
    view = session.teacher_view
    assert view is not None
    seconds = time.monotonic() - started
    train_state.epoch_seconds += seconds
    notes = _notes(view, index, seconds)
    if train_state.teacher_views.setdefault(str(index), view.digest) != view.digest:
        train_state.teacher_views[str(index)] = view.digest
        train_state.deterministic = "statistical"
        notes.append(
            f"the teacher's logits of view {index} are other ones than in earlier epochs: the "
            "numbers are no longer exact to the bit"
        )
    return notes


def cached_logits(session: TrainingSession, indices: Indices) -> Tensor | None:
    """Return the teacher's logits (B, K) of some images in this epoch's view, if they are kept."""
    if session.teacher_view is None:
        return None
    return torch.from_numpy(session.teacher_view.logits[indices]).to(session.pipeline.device)


@torch.no_grad()
def _teacher_logits(
    session: TrainingSession, view: int, chunks: Sequence[Indices]
) -> Iterator[NDArray[np.float32]]:
    """Yield the teacher's logits of chunks of images: in fp32 and eager, whatever the recipe's."""
    assert session.teacher is not None
    for images in session.pipeline.view_batches(view, chunks):
        yield session.teacher(images).float().cpu().numpy()


def _notes(view: View, index: int, seconds: float) -> list[str]:
    notes = []
    if view.images_damaged:
        notes.append(
            f"{view.path} was cut or damaged: the teacher's logits of {view.images_damaged:,} "
            "images were computed anew"
        )
    if view.images_computed:
        notes.append(
            f"the teacher's logits of view {index}: {view.images_computed:,} images in "
            f"{seconds:.1f} s, kept in {view.path.parent}"
        )
    if view.waited:
        notes.append(f"another run was computing the teacher's logits of view {index}: waited")
    return notes
