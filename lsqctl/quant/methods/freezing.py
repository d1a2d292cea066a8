"""Iterative weight freezing: a weight that oscillates too often keeps its code for good.

Nagel, Fournarakis, Bondarenko, Blankevoort, "Overcoming Oscillations in Quantization-Aware
Training", ICML 2022 (arXiv 2203.11086), algorithm 1, and their code
(Qualcomm-AI-research/oscillations-qat).
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lsqctl.quant.methods import ANNEAL_START, FREEZABLE_BITS, Method, MethodState
from lsqctl.quant.methods.weight_codes import WeightCodes

MOMENTUM = 0.001
"""m of both moving averages: that of the authors' published commands. They advise a threshold of
two or three times as much at least, and take 0.1 at the start and 0.01 at the end."""


class Oscillations(NamedTuple):
    """What is known of each weight (N,): its code, int8; the sign of its last change, int8; how
    often it oscillates, f; the moving average of its code; whether it is frozen, and at which code.
    """

    codes: Tensor
    direction: Tensor
    frequency: Tensor
    average: Tensor
    frozen: Tensor
    frozen_codes: Tensor

    @classmethod
    def start(cls, codes: Tensor) -> Oscillations:
        """Return what is known before the first step."""
        zeros = torch.zeros_like(codes)
        unknown = zeros.float()
        return cls(codes, zeros, unknown, codes.float(), zeros.bool(), codes.clone())


def follow(known: Oscillations, codes: Tensor, threshold: float) -> Oscillations:
    """Return what is known after a step that left the weights at ``codes``.

    o = 1 where the code changed, and not in the direction of its last change (0 at the first one);
    f <- m o + (1 - m) f. Frozen from now on: f > threshold, at the rounded average of the codes
    before this one; average <- m code + (1 - m) average.
    """
    change = (codes > known.codes).to(torch.int8) - (codes < known.codes).to(torch.int8)
    oscillates = (change * known.direction < 0).float()
    frequency = known.frequency.lerp(oscillates, MOMENTUM)
    average = known.average.lerp(codes.float(), MOMENTUM)
    frozen_now = (frequency > threshold) & ~known.frozen
    return Oscillations(
        codes,
        torch.where(change != 0, change, known.direction),
        frequency,
        average,
        known.frozen | frozen_now,
        torch.where(frozen_now, known.average.round().to(torch.int8), known.frozen_codes),
    )


class Freezing(Method):
    """Freezes, after each step, the weights whose frequency exceeds the threshold.

    The key's value is (threshold at the start, at the end). Where they differ, nothing is frozen in
    the first quarter of the training, at whose end the averages of codes begin, and the threshold
    falls by half a cosine from then on, as in the authors' code. A frozen weight is set to its code
    times the step size after each step, so that it follows a step size that still learns.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, value: object) -> None:
        super().__init__(model, optimizer, value)
        self._weights = WeightCodes(model, max_bits=FREEZABLE_BITS)
        self._first, self._last = cast("tuple[float, float]", value)
        self._known: Oscillations | None = None

    def before_step(self) -> None:
        """Remember the first codes."""
        if self._known is None:
            self._known = Oscillations.start(self._weights.codes())

    @torch.no_grad()
    def after_step(self) -> None:
        """Freeze what oscillates, and set what is frozen."""
        assert self._known is not None
        threshold = self._first + (self._last - self._first) * self.annealed
        warming = self._first != self._last and self.progress < ANNEAL_START
        known = follow(self._known, self._weights.codes(), math.inf if warming else threshold)
        if warming:
            known = known._replace(average=known.codes.float())
        where, at = (self._weights.split(row) for row in (known.frozen, known.frozen_codes))
        for (quantizer, weight), frozen, code in zip(self._weights.pairs, where, at, strict=True):
            weight.copy_(torch.where(frozen, code * quantizer.step_size, weight))
        codes = torch.where(known.frozen, known.frozen_codes, known.codes)
        self._known = known._replace(codes=codes)

    def metrics(self) -> dict[str, float]:
        """Return the percentage of weights that are frozen."""
        if self._known is None:
            return {}
        return {"frozen_weights": 100 * self._known.frozen.float().mean().item()}

    def state_dict(self) -> MethodState:
        """Return what is known of each weight; empty before the first step."""
        return {} if self._known is None else self._known._asdict()

    def load_state_dict(self, state: MethodState) -> None:
        """Take what ``state_dict`` returned."""
        device = self._weights.pairs[0][1].device
        known = {
            name: tensor.to(device) for name, tensor in cast("dict[str, Tensor]", state).items()
        }
        self._known = Oscillations(**known) if known else None
