"""Transition-rate scheduling: not the learning rate is scheduled, but how many codes change.

Lee, Kim, Jeon, Ham, "Scheduling Weight Transitions for Quantization-Aware Training", ICCV 2025
(arXiv 2404.19248).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lsqctl.quant.methods import Method, MethodState, find_group
from lsqctl.quant.methods.weight_codes import WeightCodes
from lsqctl.quant.optim import ParamGroup

MOMENTUM = 0.99
"""m of equation 10."""
_GROUP = "quantized_weights"


def adapted_lr(lr: float, target: float, rate: float, gain: float) -> float:
    """Return the next transition-adaptive learning rate: U <- max(0, U + gain (R - K)) (eq. 11)."""
    return max(0.0, lr + gain * (target - rate))


def transition_rate(before: Tensor, after: Tensor) -> float:
    """Return k, the share of codes (N,) that differ from those of the step before (eq. 5)."""
    return (before != after).float().mean().item()


class TransitionRate(Method):
    """Gives the quantized weights a learning rate U of their own.

    The key's value is R_0, the share of codes that are to change at a step in the beginning; the
    target R_t falls with half a cosine to 0 (the paper takes any usual schedule). After each step
    K <- m K + (1 - m) k (eq. 10), and U follows ``adapted_lr``; w <- w - U times the optimizer's
    direction (eq. 12). Step sizes of weights are not trained, as in the paper's footnote 2.

    Not to be had was its supplement. By summaries of it m is 0.99, the gain is the first U, and R_0
    is in proportion to the root of the weights' bits. That U begins at the group's first learning
    rate, and K at R_0, is ours.

    Raises:
        ValueError: the optimizer has no group ``weights`` with these weights (``param_groups``).
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, value: object) -> None:
        super().__init__(model, optimizer, value)
        self._weights = WeightCodes(model)
        self._optimizer = optimizer
        group = _own_group(optimizer, self._weights)
        self._first_target = self._rate = cast("float", value)
        self._lr = self._gain = float(group["lr"])
        self._codes: Tensor | None = None

    def before_step(self) -> None:
        """Set the group's learning rate to U."""
        if self._codes is None:
            self._codes = self._weights.codes()
        find_group(self._optimizer, _GROUP)["lr"] = self._lr

    def after_step(self) -> None:
        """Count the codes that changed; waits for the device."""
        assert self._codes is not None
        codes = self._weights.codes()
        now = transition_rate(self._codes, codes)
        self._codes = codes
        self._rate = MOMENTUM * self._rate + (1 - MOMENTUM) * now
        target = self._first_target * self.half_cosine
        self._lr = adapted_lr(self._lr, target, self._rate, self._gain)

    def metrics(self) -> dict[str, float]:
        """Return K in percent, and U."""
        return {"code_changes": 100 * self._rate, "weight_lr": self._lr}

    def state_dict(self) -> MethodState:
        """Return U, K and the last codes; empty before the first step."""
        if self._codes is None:
            return {}
        return {
            "codes": self._codes,
            "scalars": torch.tensor([self._lr, self._rate], dtype=torch.float64),
        }

    def load_state_dict(self, state: MethodState) -> None:
        """Take what ``state_dict`` returned."""
        if state:
            tensors = cast("dict[str, Tensor]", state)
            self._codes = tensors["codes"].to(self._weights.pairs[0][1].device)
            self._lr, self._rate = tensors["scalars"].tolist()


def _own_group(optimizer: Optimizer, weights: WeightCodes) -> ParamGroup:
    """Move the quantized weights into a group of their own, the last one, and return it."""
    moved = {id(weight) for _, weight in weights.pairs}
    source = find_group(optimizer, "weights")
    if not moved <= {id(parameter) for parameter in source["params"]}:
        raise ValueError("the optimizer's group weights lacks a weight that is quantized")
    named = list(zip(source["params"], source["names"], strict=True))
    group = source | {"name": _GROUP}
    group["params"] = [parameter for parameter, _ in named if id(parameter) in moved]
    group["names"] = [name for parameter, name in named if id(parameter) in moved]
    source["params"] = [parameter for parameter, _ in named if id(parameter) not in moved]
    source["names"] = [name for parameter, name in named if id(parameter) not in moved]
    if not source["params"]:
        optimizer.param_groups.remove(source)
    optimizer.param_groups.append(group)
    return group
