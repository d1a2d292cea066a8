"""Oscillation dampening: a pull of each weight to the middle of its code.

Nagel, Fournarakis, Bondarenko, Blankevoort, "Overcoming Oscillations in Quantization-Aware
Training", ICML 2022 (arXiv 2203.11086), and their code (Qualcomm-AI-research/oscillations-qat).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lsqctl.quant.methods import Method
from lsqctl.quant.methods.weight_codes import WeightCodes


def dampening_gradient(weight: Tensor, step: Tensor, bounds: tuple[int, int]) -> Tensor:
    """Return the gradient of the dampening loss for a weight, in its shape.

    L = ||w^ - clip(w, s Q_min, s Q_max)||^2 over all weights, where w^ = s round(clip(w / s)) and s
    are constants: dL/dw = 2 (w - w^) inside the grid, 0 where the weight is clipped.
    """
    ratio = weight / step
    inside = (ratio >= bounds[0]) & (ratio <= bounds[1])
    return torch.where(inside, 2 * (weight - ratio.clamp(*bounds).round() * step), 0.0)


class Dampening(Method):
    """Adds lambda(t) dL/dw to the gradient of every quantized weight, before each step.

    lambda is 0 for a quarter of the training and grows by half a cosine to the key's value at its
    end, as in the authors' code. The norm is the paper's, a sum over all weights; their code
    (kernel_mean) divides it by the weights of an output channel, so that its 0.1 is 0.1 / (C k k)
    here. The gradient is added after clipping, and the reported loss does not hold this term.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, value: object) -> None:
        super().__init__(model, optimizer, value)
        self._weights = WeightCodes(model)
        self._strength = cast("float", value)

    @torch.no_grad()
    def before_step(self) -> None:
        """Add the gradient; weights without one are left alone."""
        strength = self._strength * self.annealed
        for quantizer, weight in self._weights.pairs:
            if weight.grad is not None:
                pull = dampening_gradient(weight, quantizer.step_size, quantizer.bounds)
                weight.grad.add_(pull.to(weight.grad.dtype), alpha=strength)
