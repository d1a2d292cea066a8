"""Parameter groups for any torch optimizer, and step sizes that stay positive under all of them."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lsqctl.quant.functional import MIN_STEP_SIZE
from lsqctl.quant.surgery import quantizers

ParamGroup: TypeAlias = dict[str, Any]  # as torch.optim takes it


def param_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    step_weight_decay: float = 0.0,
    step_lr_scale: float = 1.0,
) -> list[ParamGroup]:
    """Return groups ``weights``, ``no_decay`` and ``step_sizes`` for any torch optimizer.

    Weights decay; biases, norm parameters and all else of fewer than two dimensions do not; step
    sizes, and the offsets beside them, have a decay of their own (0: a step is no weight) and
    ``lr * step_lr_scale``. Each
    trainable parameter is in exactly one group, frozen ones in none (but an offset that is not in
    use, so that the groups are the same before and after calibration), and empty groups are left
    out. ``names`` lists the parameters' names in the order of ``params``.
    """
    step_ids = {id(p) for quantizer in quantizers(model).values() for p in quantizer.parameters()}
    unused = {id(q.offset) for q in quantizers(model).values() if q.active_offset is None}
    step_lr = lr * step_lr_scale
    groups = {
        "weights": _group("weights", lr, weight_decay),
        "no_decay": _group("no_decay", lr, 0.0),
        "step_sizes": _group("step_sizes", step_lr, step_weight_decay),
    }
    for name, parameter in model.named_parameters():  # each once, also when shared
        if parameter.requires_grad or id(parameter) in unused:
            kind = "weights" if parameter.dim() > 1 else "no_decay"
            group = groups["step_sizes" if id(parameter) in step_ids else kind]
            group["params"].append(parameter)
            group["names"].append(name)
    return [group for group in groups.values() if group["params"]]


def _group(name: str, lr: float, weight_decay: float) -> ParamGroup:
    return {"name": name, "params": [], "names": [], "lr": lr, "weight_decay": weight_decay}


def clamp_step_sizes(
    optimizer: Optimizer, model: nn.Module, *, floor: float = MIN_STEP_SIZE
) -> StepSizeClamp:
    """Clamp every step size of ``model`` to at least ``floor`` after each optimizer step.

    A step size at or below zero would turn its tensor around or divide by zero; LSQ itself does
    not say what then. NaN stays NaN, so that divergence is seen. ``forward`` never writes.

    Raises:
        ValueError: ``floor`` is not positive, the model has no quantizers, or the optimizer does
            not hold all of their step sizes.
    """
    by_name = quantizers(model)
    optimized_ids = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trainable_steps = {
        name: q.step_size for name, q in by_name.items() if q.step_size.requires_grad
    }
    if not floor > 0:
        raise ValueError(f"floor must be positive, got {floor}")
    if not by_name:
        raise ValueError("the model has no quantizers: call prepare(model, spec) first")
    if missing := [name for name, step in trainable_steps.items() if id(step) not in optimized_ids]:
        raise ValueError(
            f"the optimizer lacks {len(missing)} step sizes, the first of {missing[0]!r}: make it "
            "from param_groups(model, ...) after prepare"
        )
    return StepSizeClamp(optimizer, trainable_steps, floor)


class StepSizeClamp:
    """What ``clamp_step_sizes`` returns: the counts, and the way to stop."""

    def __init__(self, optimizer: Optimizer, steps: dict[str, nn.Parameter], floor: float) -> None:
        self._steps = steps
        self._floor = floor
        self._counts: Tensor | None = None
        self._handle = optimizer.register_step_post_hook(self._clamp)

    @property
    def clamped(self) -> dict[str, int]:
        """How often each quantizer's step size was clamped so far (per channel, where so made).

        Reading waits for the device; counting does not.
        """
        if self._counts is None:
            return dict.fromkeys(self._steps, 0)
        sizes = [step.numel() for step in self._steps.values()]
        parts = torch.split(self._counts.cpu(), sizes)
        return {name: int(part.sum()) for name, part in zip(self._steps, parts, strict=True)}

    def remove(self) -> None:
        """Stop clamping; the counts stay readable."""
        self._handle.remove()

    @torch.no_grad()
    def _clamp(self, *_: object) -> None:
        steps: list[Tensor] = list(self._steps.values())
        if not steps:  # all are frozen
            return
        below_floor = torch.cat([step.flatten() for step in steps]) < self._floor  # False for NaN
        if self._counts is None:
            self._counts = torch.zeros_like(below_floor, dtype=torch.int64)
        self._counts += below_floor
        torch._foreach_clamp_min_(steps, self._floor)
