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

from lsqctl.quant.calibration import eval_mode
from lsqctl.quant.oscillation import master_weights
from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.surgery import quantized_layers, quantizers


@dataclass(frozen=True, slots=True)
class QuantizerReading:
    """One quantizer at one moment.

    * ``step_size``: the mean over channels; equal to the least and the largest for one a tensor.
    * ``clip_fraction``: the part of values that the clip moves, v/s < -Q_N or v/s > Q_P (eq. 1).
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
def collect_stats(model: nn.Module, images: Tensor) -> list[QuantizerReading]:
    """Return a reading of each quantizer that ``images`` reach, in the model's order.

    One forward pass in evaluation mode, (B, C, H, W) as the model takes them; inputs are read
    there, weights and gradients as they are. Nothing of the model changes: no buffer, no flag, no
    gradient, no random state.
    """
    by_name = quantizers(model)
    counts_by_name: dict[str, Tensor] = {}
    with eval_mode(model), _input_hooks(by_name, counts_by_name):
        model(images)
    for name, weight in master_weights(model).items():
        counts_by_name[name] = _code_counts(by_name[name], weight)
    names = [name for name in by_name if name in counts_by_name]
    if not names:
        return []
    counts = torch.stack([counts_by_name[name] for name in names]).tolist()  # waits for the device once
    ratios, steps = _r_ratios(by_name, _layer_weights(model)), _step_ranges(by_name)
    return [
        _make_reading(name, by_name[name], count, steps[name], ratios.get(name))
        for name, count in zip(names, counts, strict=True)
    ]


def _layer_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weight of the layer that each quantizer belongs to, by the quantizer's name."""
    return {
        f"{name}.{key}".lstrip("."): layer.master_weight
        for name, layer in quantized_layers(model).items()
        for key in ("weight_quantizer", "input_quantizer")
    }


@contextmanager
def _input_hooks(by_name: Mapping[str, LsqQuantizer], counts: dict[str, Tensor]) -> Iterator[None]:
    handles = [
        quantizer.register_forward_pre_hook(partial(_count_input, name, counts))
        for name, quantizer in by_name.items()
        if quantizer.batched
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _count_input(
    name: str, counts: dict[str, Tensor], quantizer: LsqQuantizer, inputs: tuple[Tensor, ...]
) -> None:
    if name not in counts:  # a shared layer: its first use is shown
        counts[name] = _code_counts(quantizer, inputs[0])


def _code_counts(quantizer: LsqQuantizer, x: Tensor) -> Tensor:
    """Return (values clipped, codes used), int64: few kernels, for short epochs have many layers.

    The ratio is that of ``quantizer.codes``, which is not called for its bare v/s is wanted, too.
    """
    lowest, highest = quantizer.bounds
    offset, step = quantizer.active_offset, quantizer.step_size
    x = x.to(torch.promote_types(x.dtype, step.dtype))
    ratio = (x if offset is None else x - offset) / step
    clipped = (ratio < lowest).sum() + (ratio > highest).sum()
    codes = ratio.clamp_(lowest, highest).round_().sub_(lowest)
    codes = codes.nan_to_num_().flatten().to(torch.int32)  # that a run diverged is told elsewhere
    used = torch.bincount(codes, minlength=highest - lowest + 1).count_nonzero()
    return torch.stack((clipped, used, torch.tensor(x.numel(), device=x.device)))


def _step_ranges(by_name: Mapping[str, LsqQuantizer]) -> dict[str, tuple[float, float, float]]:
    """Return the mean, the least and the largest step of each quantizer."""
    sizes = [quantizer.step_size.numel() for quantizer in by_name.values()]
    flat = torch.cat([quantizer.step_size.flatten() for quantizer in by_name.values()])
    parts = torch.split(flat.double().cpu(), sizes)
    return {
        name: (part.mean().item(), part.min().item(), part.max().item())
        if len(part) > 1
        else (part.item(),) * 3
        for name, part in zip(by_name, parts, strict=True)
    }


def _r_ratios(
    by_name: Mapping[str, LsqQuantizer], weights: Mapping[str, nn.Parameter]
) -> dict[str, float]:
    """Return R of each quantizer whose layer has gradients; NaN where it means nothing."""
    names, tensors = [], []
    for name, quantizer in by_name.items():
        weight, step = weights.get(name), quantizer.step_size
        if weight is not None and weight.grad is not None and step.grad is not None:
            names.append(name)
            tensors += [step.grad, step, weight.grad, weight]
    if not names:
        return {}
    norms = torch.stack([norm.double() for norm in torch._foreach_norm(tensors)]).view(-1, 4)
    return {name: _r_ratio(*row) for name, row in zip(names, norms.tolist(), strict=True)}


def _r_ratio(step_grad: float, step: float, weight_grad: float, weight: float) -> float:
    """Return R, or NaN where it means nothing."""
    finite = all(map(math.isfinite, (step_grad, step, weight_grad, weight)))
    if not finite or not step or not weight_grad or not weight:
        return math.nan
    return (step_grad / step) / (weight_grad / weight)


def _make_reading(
    name: str,
    quantizer: LsqQuantizer,
    counts: tuple[int, int, int],
    steps: tuple[float, float, float],
    ratio: float | None,
) -> QuantizerReading:
    clipped, used, values = counts
    mean, smallest, largest = steps
    lowest, highest = quantizer.bounds
    return QuantizerReading(
        name=name,
        kind="input" if quantizer.batched else "weight",
        bits=quantizer.spec.bits,
        signed=quantizer.signed is not False,
        step_size=mean,
        step_size_min=smallest,
        step_size_max=largest,
        clip_fraction=clipped / values,
        codes_used=used,
        n_codes=highest - lowest + 1,
        n_values=values,
        r_ratio=None if ratio is None or math.isnan(ratio) else ratio,
    )
