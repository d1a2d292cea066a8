"""An optimizer of their own for the step sizes: Adam, whatever the weights are trained with.

As for learned thresholds in Jain, Gural, Wu, Dick, "Trained Quantization Thresholds for Accurate
and Efficient Fixed-Point Inference", MLSys 2020 (arXiv 1903.08066), section 5.2.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from lsqctl.quant.methods import Method, MethodState, find_group
from lsqctl.quant.surgery import quantizers


class AdamSteps(Method):
    """Takes Adam's step for the optimizer's group ``step_sizes``, in the optimizer's place.

    m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, both divided by 1 - b^t, and
    s <- s - lr (m / (sqrt(v) + 1e-8) + decay s), b1 = 0.9, b2 = 0.999 (Kingma and Ba 2015; the
    decay apart, Loshchilov and Hutter 2019). ``lr`` is the group's at that step. The size of a
    gradient cancels, and LSQ's gradient scale with it: a step size moves by about ``lr`` a step, so
    the group's rate is to be far below the weights'.

    Raises:
        ValueError: no step size is trained, or the optimizer has no group ``step_sizes``
            (``param_groups``).
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, value: object) -> None:
        super().__init__(model, optimizer, value)
        self._optimizer = optimizer
        if not any(one.step_size.requires_grad for one in quantizers(model).values()):
            raise ValueError("no step size of the model is trained")
        group = find_group(optimizer, "step_sizes")
        self._adam = torch.optim.AdamW(
            group["params"], lr=group["lr"], weight_decay=group["weight_decay"]
        )

    def before_step(self) -> None:
        """Take the step, and leave none to the optimizer."""
        (own,), group = self._adam.param_groups, find_group(self._optimizer, "step_sizes")
        own["lr"], group["lr"] = group["lr"], 0.0
        self._adam.step()

    def state_dict(self) -> MethodState:
        """Return Adam's moments."""
        return self._adam.state_dict()

    def load_state_dict(self, state: MethodState) -> None:
        """Take what ``state_dict`` returned."""
        self._adam.load_state_dict(state)
