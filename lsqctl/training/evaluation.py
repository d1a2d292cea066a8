"""Count the images a network gets right: by raw weights, their EMA, or new BN statistics.

A quantized network is counted in the integers of its deployed file, or as it was trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from lsqctl.errors import UnfitKey, UsageError
from lsqctl.failpoint import failpoint
from lsqctl.models.heads import example_of
from lsqctl.quant.integer_network import integer_network, no_integer_network, no_integers_on
from lsqctl.quant.torch_faults import views_may_copy
from lsqctl.training.precision import autocast
from lsqctl.training.ranks import World, any_rank

EvaluationArithmetic = Literal["integer", "trained"]


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


class EvalShare:
    """The batches of an evaluation that one rank counts: every ``size``-th, whole, from its rank.

    A batch normalizes by running statistics, so that it does not matter who counts it.
    """

    def __init__(self, batches: Sequence[NDArray[np.int64]], world: World) -> None:
        self.batches = batches[world.rank :: world.size]
        self.extra_rounds = -(-len(batches) // world.size) - len(self.batches)  # without a batch
        self._n_images = sum(map(len, batches))
        self._world = world

    def gather(self, hits: Tensor, top5: Tensor, losses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what all ranks have counted, a value an image, in dataset order."""
        if self._world.size == 1:
            return hits, top5, losses
        values = torch.zeros((3, self._n_images), dtype=torch.int64)
        positions = torch.from_numpy(np.concatenate([*self.batches, np.arange(0)]))
        bits = losses.view(torch.int64)  # a sum of floats would lose the sign of a zero
        values[:, positions] = torch.stack([hits.long(), top5.long(), bits]).cpu()
        self._world.sum(values)
        found = values.to(losses.device)
        return found[0].bool(), found[1].bool(), found[2].view(torch.float64)

    def any_has_top5(self, has_top5: bool) -> bool:
        """Return whether a rank that had a batch has counted Top-5."""
        return any_rank(self._world, has_top5)[0]


def decide_evaluation(
    wanted: Literal["auto", "integer", "trained"],
    model: nn.Module,
    device: torch.device,
    input_shape: tuple[int, int, int],
) -> EvaluationArithmetic:
    """Return how a run's network is evaluated, for all of its attempts.

    ``model`` is calibrated, its images are (C, H, W). Raises UnfitKey when the recipe demands
    integers, and there are none for this network here.
    """
    if wanted == "trained":
        return "trained"
    reason = no_integer_network(model) or no_integers_on(device, model, input_shape)
    if wanted == "integer" and reason:
        raise UnfitKey("train.evaluation", reason, "say auto or trained")
    return "trained" if reason else "integer"


def as_evaluated(
    model: nn.Module, arithmetic: EvaluationArithmetic, input_shape: tuple[int, int, int]
) -> nn.Module:
    """Return ``model``, or a copy of it that computes in integers, for images (C, H, W)."""
    if arithmetic == "trained":
        return model
    return integer_network(model, example_of(model, input_shape))


def evaluation_autocast(
    arithmetic: EvaluationArithmetic, precision: str, device: torch.device
) -> AbstractContextManager[object]:
    """Return the context of an evaluation: what is no integer is fp32 beside integers."""
    return nullcontext() if arithmetic == "integer" else autocast(precision, device)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    before_batch: Callable[[], None] = lambda: None,
    share: EvalShare | None = None,
) -> EvalCounts:
    """Return the counts of ``model`` in evaluation mode over (images, labels) batches.

    ``before_batch`` is called before each batch and may raise to end the evaluation. The model's
    training mode is restored. With ``share``, ``batches`` are this rank's, and the counts of all.
    """
    was_training = model.training
    model.eval()
    running, views = RunningCounts(), views_may_copy(model)
    try:
        for images, labels in batches:
            before_batch()
            failpoint("evaluate.batch")
            with views:
                logits = model(images)
            running.add(logits.float(), labels)
        for _ in range(share.extra_rounds if share else 0):
            before_batch()
    finally:
        model.train(was_training)
    return running.counts(share)


class RunningCounts:
    """Counts the right answers of one network, batch by batch, whoever computed them."""

    def __init__(self) -> None:
        self._correct: list[Tensor] = []
        self._correct_top5: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._has_top5 = False

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count one batch: logits (B, classes) in fp32, labels (B)."""
        self._correct.append(logits.argmax(1) == labels)
        self._has_top5 = logits.shape[1] >= 6
        in_top5 = _in_top5(logits, labels) if self._has_top5 else self._correct[-1]
        self._correct_top5.append(in_top5)
        self._losses.append(F.cross_entropy(logits, labels, reduction="none").double())

    def counts(self, share: EvalShare | None = None) -> EvalCounts:
        """Return what was counted, of one batch at least; with ``share``, by all ranks."""
        counted = (_joined(self._correct), _joined(self._correct_top5), _joined(self._losses))
        has_top5 = self._has_top5
        if share is not None:
            counted, has_top5 = share.gather(*counted), share.any_has_top5(has_top5)
        all_hits, all_top5, losses = counted
        hits = all_hits.cpu().numpy()
        return EvalCounts(
            n_correct=int(hits.sum()),
            n_correct_top5=int(all_top5.sum()) if has_top5 else None,
            n_total=len(hits),
            hits=np.packbits(hits).tobytes(),
            loss=float(losses.mean()),
        )


def _joined(parts: list[Tensor]) -> Tensor:
    """Return the values of all batches; a rank may have had none."""
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


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
    views = views_may_copy(model)
    for images in batches:
        with views:
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
