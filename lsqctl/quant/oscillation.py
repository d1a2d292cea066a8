"""Which weights' codes change and change back while a model trains: compared between looks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.surgery import quantized_layers, quantizers

_INT8_MIN = -128  # of int8, which holds the codes of every bit width once they start there
_REVERSED = 2
_MIN_UPDATES = 3  # to change and to change back


def master_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the master weight of each weight quantizer, by the quantizer's name."""
    return {
        f"{name}.weight_quantizer".lstrip("."): layer.master_weight
        for name, layer in quantized_layers(model).items()
        if layer.weight_quantizer is not None
    }


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
        codes = torch.cat([_int8_codes(weight_quantizer, weight) for weight_quantizer, weight in self._weights])
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
