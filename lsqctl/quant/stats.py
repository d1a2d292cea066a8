"""Statistics of a model's quantizers while it trains; measuring changes no number of it.

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

from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.surgery import eval_mode, quantized_layers, quantizers
from lsqctl.quant.torch_faults import views_may_copy

_INT8_MIN = -128  # of int8, which holds the codes of every bit width once they start there
_REVERSED = 2
_MIN_UPDATES = 3  # to change and to change back


def master_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the master weight of each weight quantizer, by the quantizer's name.

    Layers that share a weight share its quantizer, which is here once, as in ``quantizers``.
    """
    names = {quantizer: name for name, quantizer in quantizers(model).items()}
    weights: dict[str, Tensor] = {}
    for layer in quantized_layers(model).values():
        if layer.weight_quantizer is not None:
            weights.setdefault(names[layer.weight_quantizer], layer.master_weight)
    return weights


class OscillationTracker:
    """Which weights' codes change and change back between updates since ``reset``.

    A weight oscillates when its integer code changes in the direction opposite to its previous
    change (Nagel et al. 2022, arXiv 2203.11086, section 2, who compare every iteration and smooth
    the frequency; here updates are fewer and a weight either did so or not). Keeps two int8 a
    weight, and asks nothing of the device until ``rates``.
    """

    def __init__(self, model: nn.Module) -> None:
        by_name, weights = quantizers(model), master_weights(model)
        self._names = list(weights)
        self._weights = [(by_name[name], weight) for name, weight in weights.items()]
        self.reset()

    @property
    def started(self) -> bool:
        """Whether ``update`` was called since ``reset``."""
        return self._codes is not None

    def reset(self) -> None:
        """Begin anew: the next update is the first."""
        self._codes: Tensor | None = None
        self._trend: Tensor | None = None
        self._updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Compare the codes of all weights with those of the update before."""
        if not self._weights:
            return
        codes = torch.cat(
            [_int8_codes(weight_quantizer, weight) for weight_quantizer, weight in self._weights]
        )
        if self._codes is None or self._trend is None:
            self._trend = torch.zeros_like(codes)
        else:
            self._trend = _next_trend(self._trend, self._codes, codes)
        self._codes = codes
        self._updates += 1

    def rates(self) -> dict[str, float]:
        """Return each weight quantizer's fraction of oscillating weights; empty below 3 updates."""
        if self._trend is None or self._updates < _MIN_UPDATES:
            return {}
        sizes = [weight.numel() for _, weight in self._weights]
        parts = torch.split(self._trend.abs() == _REVERSED, sizes)
        fractions = torch.stack([part.float().mean() for part in parts]).tolist()
        return dict(zip(self._names, fractions, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint within an epoch needs; empty before the first update."""
        if self._codes is None or self._trend is None:
            return {}
        updates = torch.tensor(self._updates)
        return {"codes": self._codes, "trend": self._trend, "looks": updates}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a ``state_dict``; an empty one begins anew.

        Raises:
            ValueError: it is of another model.
        """
        self.reset()
        if not state:
            return
        count = sum(weight.numel() for _, weight in self._weights)
        if state["codes"].numel() != count:
            raise ValueError(
                f"the state holds codes of {state['codes'].numel()} weights, the model has {count}"
            )
        device = self._weights[0][1].device
        self._codes, self._trend = state["codes"].to(device), state["trend"].to(device)
        self._updates = int(state["looks"])


def _next_trend(trend: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Return the direction of each code's last change: -1, 0 or 1, doubled once it has turned."""
    change = (new > old).to(torch.int8) - (new < old).to(torch.int8)
    reversed_now = (change * trend < 0).logical_or_(trend.abs() == _REVERSED)
    direction = torch.where(change != 0, change, trend.sign())
    return direction.mul_(reversed_now.to(torch.int8) + 1)


def _int8_codes(quantizer: LsqQuantizer, weight: Tensor) -> Tensor:
    lowest, _ = quantizer.bounds
    return (quantizer.codes(weight).flatten() + (_INT8_MIN - lowest)).to(torch.int8)


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
    with eval_mode(model), _input_hooks(by_name, counts_by_name), views_may_copy(model):
        model(images)
    for name, weight in master_weights(model).items():
        counts_by_name[name] = _code_counts(by_name[name], weight)
    names = [name for name in by_name if name in counts_by_name]
    if not names:
        return []
    counts = torch.stack(
        [counts_by_name[name] for name in names]
    ).tolist()  # waits for the device once
    ratios, steps = _r_ratios(by_name, _layer_weights(model)), _step_ranges(by_name)
    return [
        _make_reading(name, by_name[name], count, steps[name], ratios.get(name))
        for name, count in zip(names, counts, strict=True)
    ]


def _layer_weights(model: nn.Module) -> dict[str, Tensor]:
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
    by_name: Mapping[str, LsqQuantizer], weights: Mapping[str, Tensor]
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
