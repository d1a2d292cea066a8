"""An exponential moving average of a network: weights, step sizes and running statistics.

Written here, for torch's AveragedModel waits for the device at each update and averages counters.
"""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn


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
        pairs = list(zip(_parameters_and_buffers(self.model), _parameters_and_buffers(model), strict=True))
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
