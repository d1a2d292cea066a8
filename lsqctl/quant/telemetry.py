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
    * ``clip_fraction``: the share of values that the clip moves, v/s < -Q_N or v/s > Q_P (eq. 1),
      v less the offset where there is one. Values at a bound are not counted: half of what a ReLU
      gives is exactly 0.
    * ``codes_used`` of ``n_codes``: how many codes occur, in any channel.
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
    ratios = _r_ratios(found, _weight_of(model))
    names = [name for name in found if name in seen]
    if not names:
        return []
    rows = torch.stack([seen[name] for name in names]).tolist()  # waits for the device once
    return [
        _reading(name, found[name], row, ratios.get(name))
        for name, row in zip(names, rows, strict=True)
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
    """Return (clip fraction, codes used, mean, least and largest step) as one fp64 tensor."""
    lowest, highest = quantizer.bounds
    step = quantizer.step_size
    shift = 0 if quantizer.shift is None else quantizer.shift
    low, high = step * lowest + shift, step * highest + shift
    clipped = ((x < low) | (x > high)).sum() / x.numel()
    codes = (quantizer.codes(x) - lowest).flatten()
    used = (torch.bincount(codes, minlength=highest - lowest + 1) > 0).sum()
    parts = (clipped, used, step.mean(), step.min(), step.max())
    return torch.stack([part.double() for part in parts])


def _r_ratios(
    found: Mapping[str, LsqQuantizer], weights: Mapping[str, nn.Parameter]
) -> dict[str, float]:
    norms: dict[str, Tensor] = {}
    for name, quantizer in found.items():
        weight, step = weights.get(name), quantizer.step_size
        if weight is None or weight.grad is None or step.grad is None:
            continue
        four = (step.grad, step, weight.grad, weight)
        norms[name] = torch.stack([torch.linalg.vector_norm(one).double() for one in four])
    if not norms:
        return {}
    rows = torch.stack(list(norms.values())).tolist()
    return {name: _ratio(*row) for name, row in zip(norms, rows, strict=True)}


def _ratio(step_grad: float, step: float, weight_grad: float, weight: float) -> float:
    """Return R, or NaN where it means nothing."""
    fine = all(map(math.isfinite, (step_grad, step, weight_grad, weight)))
    if not fine or not step or not weight_grad or not weight:
        return math.nan
    return (step_grad / step) / (weight_grad / weight)


def _reading(name: str, quantizer: LsqQuantizer, row: list[float], ratio: float | None) -> Reading:
    clipped, used, mean, least, largest = row
    lowest, highest = quantizer.bounds
    return Reading(
        name=name,
        kind="input" if quantizer.batched else "weight",
        bits=quantizer.spec.bits,
        signed=quantizer.signed is not False,
        step_size=mean,
        step_size_min=least,
        step_size_max=largest,
        clip_fraction=clipped,
        codes_used=round(used),
        n_codes=highest - lowest + 1,
        r_ratio=None if ratio is None or math.isnan(ratio) else ratio,
    )
