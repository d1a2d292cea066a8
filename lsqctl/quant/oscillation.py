"""Which weights' codes change and change back while a model trains: compared between looks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.surgery import quantized_layers, quantizers

_LOWEST = -128  # of int8, which holds the codes of every bit width once they start there
_TURNED = 2
_MIN_LOOKS = 3  # to change and to change back


def master_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the master weight of each weight quantizer, by the quantizer's name."""
    return {
        f"{name}.weight_quantizer".lstrip("."): layer.master_weight
        for name, layer in quantized_layers(model).items()
        if layer.weight_quantizer is not None
    }


class Oscillations:
    """Which weights' codes change and change back among the looks since ``forget``.

    A weight oscillates when its integer code changes in the direction opposite to its previous
    change (Nagel et al. 2022, arXiv 2203.11086, section 2, who compare every iteration and smooth
    the frequency; here the looks are fewer and a weight either did so or not). Keeps two int8 a
    weight, and asks nothing of the device until ``rates``.
    """

    def __init__(self, model: nn.Module) -> None:
        found, weights = quantizers(model), master_weights(model)
        self._names = list(weights)
        self._weights = [(found[name], weight) for name, weight in weights.items()]
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
