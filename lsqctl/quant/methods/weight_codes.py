"""The weights that are quantized, in a row, and which of their codes have just changed.

Apart because methods of several papers follow codes, each with a rule of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.stats import master_weights
from lsqctl.quant.surgery import quantizers

MAX_BITS = 8


class WeightCodes:
    """The quantized weights of a model with at most ``max_bits``, as one row in a fixed order.

    Raises:
        ValueError: there is none, or one is no Parameter (a parametrization makes it).
    """

    def __init__(self, model: nn.Module, *, max_bits: int = MAX_BITS) -> None:
        by_name = quantizers(model)
        self.pairs: list[tuple[LsqQuantizer, nn.Parameter]] = []
        for name, weight in master_weights(model).items():
            if by_name[name].spec.bits > max_bits:
                continue
            if not isinstance(weight, nn.Parameter):
                raise ValueError(f"the weight of {name} is made by a parametrization")
            self.pairs.append((by_name[name], weight))
        if not self.pairs:
            raise ValueError(f"no weight of the model is quantized to at most {max_bits} bits")

    @torch.no_grad()
    def codes(self) -> Tensor:
        """Return all codes (N,), int8: signed ones of up to 8 bits fit."""
        return torch.cat([q.codes(weight).flatten().to(torch.int8) for q, weight in self.pairs])

    def split(self, row: Tensor) -> list[Tensor]:
        """Return a row (N,) as one tensor for each weight, in its shape."""
        parts = torch.split(row, [weight.numel() for _, weight in self.pairs])
        return [part.view_as(weight) for part, (_, weight) in zip(parts, self.pairs, strict=True)]
