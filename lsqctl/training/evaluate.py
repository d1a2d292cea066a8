"""Count how many images a model names right: integers and one bit an image, never a rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsqctl.failpoint import failpoint


@dataclass(frozen=True, slots=True)
class EvalCounts:
    """One evaluation. ``hits`` holds a bit an image in dataset order, most significant first.

    ``n_correct_top5`` is None below six classes, where it says nothing; ``loss`` is the mean
    cross-entropy.
    """

    n_correct: int
    n_correct_top5: int | None
    n_total: int
    hits: bytes
    loss: float

    @property
    def top1(self) -> float:
        """Right answers in percent."""
        return 100 * self.n_correct / self.n_total

    @property
    def top5(self) -> float | None:
        """Answers right within the first five, in percent."""
        return None if self.n_correct_top5 is None else 100 * self.n_correct_top5 / self.n_total


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    before_batch: Callable[[], None] = lambda: None,
) -> EvalCounts:
    """Return the counts of ``model`` in evaluation mode over (images, labels) batches.

    ``before_batch`` is called before each batch and may raise to end the evaluation. The model's
    training mode is put back.
    """
    was_training = model.training
    model.eval()
    correct, correct_top5, losses, has_top5 = [], [], [], False
    try:
        for images, labels in batches:
            before_batch()
            failpoint("evaluate.batch")
            logits = model(images).float()
            correct.append(logits.argmax(1) == labels)
            has_top5 = logits.shape[1] >= 6
            correct_top5.append(_in_top5(logits, labels) if has_top5 else correct[-1])
            losses.append(F.cross_entropy(logits, labels, reduction="none").double())
    finally:
        model.train(was_training)
    hits = torch.cat(correct).cpu().numpy()
    return EvalCounts(
        n_correct=int(hits.sum()),
        n_correct_top5=int(torch.cat(correct_top5).sum()) if has_top5 else None,
        n_total=len(hits),
        hits=np.packbits(hits).tobytes(),
        loss=float(torch.cat(losses).mean()),
    )


def _in_top5(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.topk(5, dim=1).indices == labels[:, None]).any(1)
