"""Look at a model's quantizers once, while it trains, without changing a number of it.

At the weights, at their gradients, and at what reaches each layer for a few images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from lsqctl.quant.calibration import evaluating
from lsqctl.quant.oscillation import master_weights
from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.surgery import quantized_layers, quantizers


@dataclass(frozen=True, slots=True)
class Reading:
    """One quantizer at one moment.

    * ``step_size``: the mean over channels; equal to the least and the largest for one a tensor.
    * ``clip_fraction``: the share of values that the clip moves, v/s < -Q_N or v/s > Q_P (eq. 1).
      Values at a bound are not counted: half of what a ReLU gives is exactly 0.
    * ``codes_used`` of ``n_codes``: how many codes occur among ``n_values``, in any channel.
    * ``r_ratio``: R = (|grad_s L| / s) / (|grad_w L| / |w|), the relative size of the step's update
      over its layer's weights' (Esser et al. 2020, section 2.2); near 1 they learn at one pace.
      Norms over channels. None without gradients, or where the weights' is zero or not finite.
    """

    name: str
    kind: Literal["weight", "input"]
    bits: int
    signed: bool
    step_size: float
    step_size_min: float
    step_size_max: float
    clip_fraction: float
    codes_used: int
    n_codes: int
    n_values: int
    r_ratio: float | None


@torch.no_grad()
def read_quantizers(model: nn.Module, images: Tensor) -> list[Reading]:
    """Return a reading of each quantizer that ``images`` reach, in the model's order.

    One forward pass in evaluation mode, (B, C, H, W) as the model takes them; inputs are read
    there, weights and gradients as they are. Nothing of the model changes: no buffer, no flag, no
    gradient, no random state.
    """
    found = quantizers(model)
    seen: dict[str, Tensor] = {}
    with evaluating(model), _watched(found, seen):
        model(images)
    for name, weight in master_weights(model).items():
        seen[name] = _summary(found[name], weight)
    names = [name for name in found if name in seen]
    if not names:
        return []
    counts = torch.stack([seen[name] for name in names]).tolist()  # waits for the device once
    ratios, steps = _r_ratios(found, _weight_of(model)), _steps(found)
    return [
        _reading(name, found[name], count, steps[name], ratios.get(name))
        for name, count in zip(names, counts, strict=True)
    ]


def _weight_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weight of the layer that each quantizer belongs to, by the quantizer's name."""
    return {
        f"{name}.{key}".lstrip("."): layer.master_weight
        for name, layer in quantized_layers(model).items()
        for key in ("weight_quantizer", "input_quantizer")
    }


@contextmanager
def _watched(found: Mapping[str, LsqQuantizer], seen: dict[str, Tensor]) -> Iterator[None]:
    handles = [
        quantizer.register_forward_pre_hook(partial(_watch, name, seen))
        for name, quantizer in found.items()
        if quantizer.batched
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watch(
    name: str, seen: dict[str, Tensor], quantizer: LsqQuantizer, inputs: tuple[Tensor, ...]
) -> None:
    if name not in seen:  # a shared layer: its first place is shown
        seen[name] = _summary(quantizer, inputs[0])


def _summary(quantizer: LsqQuantizer, x: Tensor) -> Tensor:
    """Return (values clipped, codes used), int64: few kernels, for short epochs have many layers.

    The ratio is that of ``quantizer.codes``, which is not called for its bare v/s is wanted, too.
    """
    lowest, highest = quantizer.bounds
    shift, step = quantizer.shift, quantizer.step_size
    x = x.to(torch.promote_types(x.dtype, step.dtype))
    ratio = (x if shift is None else x - shift) / step
    clipped = (ratio < lowest).sum() + (ratio > highest).sum()
    codes = ratio.clamp_(lowest, highest).round_().sub_(lowest)
    codes = codes.nan_to_num_().flatten().to(torch.int32)  # that a run diverged is told elsewhere
    used = torch.bincount(codes, minlength=highest - lowest + 1).count_nonzero()
    return torch.stack((clipped, used, torch.tensor(x.numel(), device=x.device)))


def _steps(found: Mapping[str, LsqQuantizer]) -> dict[str, tuple[float, float, float]]:
    """Return the mean, the least and the largest step of each quantizer."""
    sizes = [quantizer.step_size.numel() for quantizer in found.values()]
    flat = torch.cat([quantizer.step_size.flatten() for quantizer in found.values()])
    parts = torch.split(flat.double().cpu(), sizes)
    return {
        name: (part.mean().item(), part.min().item(), part.max().item())
        if len(part) > 1
        else (part.item(),) * 3
        for name, part in zip(found, parts, strict=True)
    }


def _r_ratios(
    found: Mapping[str, LsqQuantizer], weights: Mapping[str, nn.Parameter]
) -> dict[str, float]:
    """Return R of each quantizer whose layer has gradients; NaN where it means nothing."""
    names, tensors = [], []
    for name, quantizer in found.items():
        weight, step = weights.get(name), quantizer.step_size
        if weight is not None and weight.grad is not None and step.grad is not None:
            names.append(name)
            tensors += [step.grad, step, weight.grad, weight]
    if not names:
        return {}
    norms = torch.stack([one.double() for one in torch._foreach_norm(tensors)]).view(-1, 4)
    return {name: _ratio(*row) for name, row in zip(names, norms.tolist(), strict=True)}


def _ratio(step_grad: float, step: float, weight_grad: float, weight: float) -> float:
    """Return R, or NaN where it means nothing."""
    fine = all(map(math.isfinite, (step_grad, step, weight_grad, weight)))
    if not fine or not step or not weight_grad or not weight:
        return math.nan
    return (step_grad / step) / (weight_grad / weight)


def _reading(
    name: str,
    quantizer: LsqQuantizer,
    counts: tuple[int, int, int],
    steps: tuple[float, float, float],
    ratio: float | None,
) -> Reading:
    clipped, used, values = counts
    mean, least, largest = steps
    lowest, highest = quantizer.bounds
    return Reading(
        name=name,
        kind="input" if quantizer.batched else "weight",
        bits=quantizer.spec.bits,
        signed=quantizer.signed is not False,
        step_size=mean,
        step_size_min=least,
        step_size_max=largest,
        clip_fraction=clipped / values,
        codes_used=used,
        n_codes=highest - lowest + 1,
        n_values=values,
        r_ratio=None if ratio is None or math.isnan(ratio) else ratio,
    )
