"""SGD as the recipe says, and its learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from lsqctl.quant import param_groups
from lsqctl.recipe import Recipe, TrainSection


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Return SGD over the model's parameters; each group remembers its ``initial_lr``."""
    train, quant = recipe.train, recipe.quant
    groups = param_groups(
        model,
        lr=train.lr,
        weight_decay=train.weight_decay,
        step_weight_decay=quant.step_weight_decay,
        step_lr_scale=quant.step_lr_scale,
    )
    for group in groups:
        group["initial_lr"] = group["lr"]
    return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, nesterov=train.nesterov)


def lr_factor(train: TrainSection, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step over its first value.

    A linear warm-up, then half a cosine that is 1 at its first step and 0 after the last one
    (Loshchilov and Hutter 2017, without restarts), or constant.
    """
    warmup = train.warmup_epochs * steps_per_epoch
    total = train.epochs * steps_per_epoch
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    if train.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1.0, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its first learning rate times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
