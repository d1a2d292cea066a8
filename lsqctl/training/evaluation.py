"""Count the images a network gets right: by raw weights, their EMA, or new BN statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from lsqctl.errors import UsageError
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
    training mode is restored.
    """
    was_training = model.training
    model.eval()
    running = RunningCounts()
    try:
        for images, labels in batches:
            before_batch()
            failpoint("evaluate.batch")
            running.add(model(images).float(), labels)
    finally:
        model.train(was_training)
    return running.counts()


class RunningCounts:
    """Counts the right answers of one network, batch by batch, whoever computed them."""

    def __init__(self) -> None:
        self._correct: list[Tensor] = []
        self._correct_top5: list[Tensor] = []
        self._losses: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count one batch: logits (B, classes) in fp32, labels (B)."""
        self._correct.append(logits.argmax(1) == labels)
        if logits.shape[1] >= 6:
            self._correct_top5.append(_in_top5(logits, labels))
        self._losses.append(F.cross_entropy(logits, labels, reduction="none").double())

    def counts(self) -> EvalCounts:
        """Return what was counted, of one batch at least."""
        hits = torch.cat(self._correct).cpu().numpy()
        top5 = self._correct_top5
        return EvalCounts(
            n_correct=int(hits.sum()),
            n_correct_top5=int(torch.cat(top5).sum()) if top5 else None,
            n_total=len(hits),
            hits=np.packbits(hits).tobytes(),
            loss=float(torch.cat(self._losses).mean()),
        )


def _in_top5(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.topk(5, dim=1).indices == labels[:, None]).any(1)


class ModelEma:
    """A copy of ``model`` in evaluation mode that follows it slowly.

    After optimizer step n it is d · itself + (1 − d) · the model, with
    d = min(``decay``, (1 + n) / (10 + n)) as in TensorFlow's ExponentialMovingAverage, so that
    a short run is not held back by where it began. Parameters and floating-point buffers (the
    running statistics of batch norm) are averaged; whole numbers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        pairs = list(
            zip(_parameters_and_buffers(self.model), _parameters_and_buffers(model), strict=True)
        )
        self._float_pairs = [pair for pair in pairs if pair[0].is_floating_point()]
        self._integer_pairs = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the model, which has just taken optimizer step ``step`` (1 is the first)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        averages, currents = ([pair[side] for pair in self._float_pairs] for side in (0, 1))
        torch._foreach_lerp_(averages, currents, 1 - decay)
        for target, source in self._integer_pairs:
            target.copy_(source)


def _parameters_and_buffers(model: nn.Module) -> chain[Tensor]:
    return chain(model.parameters(), model.buffers())


_BN_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def check_reestimation(model: nn.Module, model_name: str) -> None:
    """Raise UsageError where statistics of batch norm are to be estimated, and there is none."""
    if not batchnorms(model):
        raise UsageError(f"train.bn_reestimate_images: {model_name} has no batch norm")


def batchnorms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return, by name, the batch norms that keep running statistics."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }


def freeze_bn(model: nn.Module) -> None:
    """Let batch norms normalize by their running statistics and keep them; gain and bias learn.

    Until the next ``model.train()``.
    """
    for norm in batchnorms(model).values():
        norm.eval()


@torch.no_grad()
def reestimate_bn(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Return a copy in evaluation mode whose running statistics are the plain mean over batches.

    ``batches`` are images ``(B, C, H, W)``, all of them weighed alike. Dropout stays off, and no
    random number is drawn.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    layers = batchnorms(model).values()
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch: the cumulative mean
        layer.train()
    for images in batches:
        model(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return model.eval()


def bn_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return the running statistics of every batch norm, by their keys in a state dict."""
    return {
        f"{name}.{key}": getattr(norm, key)
        for name, norm in batchnorms(model).items()
        for key in _BN_STATISTICS
    }
