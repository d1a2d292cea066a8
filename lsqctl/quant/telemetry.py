"""What can be seen of a model's quantizers while it trains, without changing a number of it.

``read_quantizers`` looks once, at the weights, at their gradients and at what reaches each layer
for a few images. ``Oscillations`` compares the codes of the weights between looks.
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
from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.surgery import quantized_layers, quantizers

_LOWEST = -128  # of int8, which holds the codes of every bit width once they start there
_TURNED = 2
_MIN_LOOKS = 3  # to change and to change back


@dataclass(frozen=True, slots=True)
class Reading:
    """One quantizer at one moment.

    * ``step_size``: the mean over channels; equal to the least and the largest for one a tensor.
    * ``clip_fraction``: the share of values that the clip moves, v/s < -Q_N or v/s > Q_P (eq. 1).
      Values at a bound are not counted: half of what a ReLU gives is exactly 0.
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
    weights = _weights(model)
    for name, weight in weights.items():
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


class Oscillations:
    """Which weights' codes change and change back among the looks since ``forget``.

    A weight oscillates when its integer code changes in the direction opposite to its previous
    change (Nagel et al. 2022, arXiv 2203.11086, section 2, who compare every iteration and smooth
    the frequency; here the looks are fewer and a weight either did so or not). Keeps two int8 a
    weight, and asks nothing of the device until ``rates``.
    """

    def __init__(self, model: nn.Module) -> None:
        found = quantizers(model)
        self._weights = [(found[name], weight) for name, weight in _weights(model).items()]
        self._names = list(_weights(model))
        self.forget()

    @property
    def begun(self) -> bool:
        """Whether a look was taken since ``forget``."""
        return self._codes is not None

    def forget(self) -> None:
        """Begin anew: the next look is the first."""
        self._codes: Tensor | None = None
        self._trend: Tensor | None = None
        self._looks = 0

    @torch.no_grad()
    def look(self) -> None:
        """Compare the codes of all weights with those of the look before."""
        if not self._weights:
            return
        codes = torch.cat([_small_codes(one, weight) for one, weight in self._weights])
        if self._codes is None or self._trend is None:
            self._trend = torch.zeros_like(codes)
        else:
            self._trend = _next_trend(self._trend, self._codes, codes)
        self._codes = codes
        self._looks += 1

    def rates(self) -> dict[str, float]:
        """Return each weight quantizer's share of oscillating weights; empty below three looks."""
        if self._trend is None or self._looks < _MIN_LOOKS:
            return {}
        sizes = [weight.numel() for _, weight in self._weights]
        parts = torch.split(self._trend.abs() == _TURNED, sizes)
        shares = torch.stack([part.float().mean() for part in parts]).tolist()
        return dict(zip(self._names, shares, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint within an epoch needs; empty before the first look."""
        if self._codes is None or self._trend is None:
            return {}
        looks = torch.tensor(self._looks)
        return {"codes": self._codes, "trend": self._trend, "looks": looks}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up a ``state_dict``; an empty one begins anew.

        Raises:
            ValueError: it is of another model.
        """
        self.forget()
        if not state:
            return
        count = sum(weight.numel() for _, weight in self._weights)
        if state["codes"].numel() != count:
            raise ValueError(
                f"the state holds codes of {state['codes'].numel()} weights, the model has {count}"
            )
        device = self._weights[0][1].device
        self._codes, self._trend = state["codes"].to(device), state["trend"].to(device)
        self._looks = int(state["looks"])


def _next_trend(trend: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Return the direction of each code's last change: -1, 0 or 1, doubled once it has turned."""
    change = (new > old).to(torch.int8) - (new < old).to(torch.int8)
    turned = (change * trend < 0).logical_or_(trend.abs() == _TURNED)
    direction = torch.where(change != 0, change, trend.sign())
    return direction.mul_(turned.to(torch.int8) + 1)


def _small_codes(quantizer: LsqQuantizer, weight: Tensor) -> Tensor:
    lowest, _ = quantizer.bounds
    return (quantizer.codes(weight).flatten() + (_LOWEST - lowest)).to(torch.int8)


def _weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the master weight of each weight quantizer, by the quantizer's name."""
    return {
        f"{name}.weight_quantizer".lstrip("."): layer.master_weight
        for name, layer in quantized_layers(model).items()
        if layer.weight_quantizer is not None
    }


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
    low, high = step * lowest, step * highest
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
