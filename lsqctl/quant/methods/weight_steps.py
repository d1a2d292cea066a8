"""Step sizes of weights that are no parameters: kept as they begin, or taken from the weights.

Liu, Liu, Cheng, "Oscillation-free Quantization for Low-bit Vision Transformers", ICML 2023
(arXiv 2302.02210), section 4.1: a learned scale makes weights oscillate, a statistic of them does
not.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lsqctl.quant.functional import MIN_STEP_SIZE
from lsqctl.quant.methods import Method, MethodState
from lsqctl.quant.methods.weight_codes import WeightCodes
from lsqctl.quant.step_init import as_rows


def mean_magnitude(weight: Tensor, step_shape: tuple[int, ...]) -> Tensor:
    """Return <|w|> for each step size, in ``step_shape``."""
    return as_rows(weight, step_shape).abs().mean(1).reshape(step_shape)


class WeightSteps(Method):
    """Takes the weights' step sizes out of the training.

    ``fixed`` leaves them at their first value. ``statistic`` sets s = k <|w|> after each step, with
    the k that gives the first value: with ``init: paper`` that is 2 / sqrt(Q_P), LSQ's own rule at
    every step. No gradient passes through the statistic.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, value: object) -> None:
        super().__init__(model, optimizer, value)
        self._weights = WeightCodes(model)
        self._follows = value == "statistic"
        self._ratios: list[Tensor] = []
        steps = [quantizer.step_size for quantizer, _ in self._weights.pairs]
        _drop(optimizer, steps)
        for step in steps:
            step.requires_grad_(False)

    def before_step(self) -> None:
        """Take k from the first step sizes."""
        if self._follows and not self._ratios:
            self._ratios = [
                quantizer.step_size / mean_magnitude(weight, tuple(quantizer.step_size.shape))
                for quantizer, weight in self._weights.pairs
            ]

    @torch.no_grad()
    def after_step(self) -> None:
        """Let the step sizes follow the weights."""
        for ratio, (quantizer, weight) in zip(self._ratios, self._weights.pairs, strict=False):
            step = ratio * mean_magnitude(weight, tuple(ratio.shape))
            quantizer.step_size.copy_(step.clamp_min(MIN_STEP_SIZE))

    def state_dict(self) -> MethodState:
        """Return k of each weight; empty for ``fixed``."""
        return {str(index): ratio for index, ratio in enumerate(self._ratios)}

    def load_state_dict(self, state: MethodState) -> None:
        """Take what ``state_dict`` returned."""
        device = self._weights.pairs[0][1].device
        self._ratios = [ratio.to(device) for ratio in cast("dict[str, Tensor]", state).values()]


def _drop(optimizer: Optimizer, parameters: list[nn.Parameter]) -> None:
    """Take parameters out of the optimizer's groups, and groups that are empty then."""
    dropped = {id(parameter) for parameter in parameters}
    for group in list(optimizer.param_groups):
        kept = [index for index, p in enumerate(group["params"]) if id(p) not in dropped]
        for name in ("params", "names"):
            if name in group:
                group[name] = [group[name][index] for index in kept]
        if not kept:
            optimizer.param_groups.remove(group)
