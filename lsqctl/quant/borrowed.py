"""A linear layer that is never called: its owner passes ``layer.weight`` to a function.

Torchvision's Swin does so, and timm's Swin V2, BEiT and EVA. What it borrows here is not the
weight but a stand-in for it, and ``F.linear`` with that stand-in calls the layer, quantizers and
hooks included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lsqctl.quant.layers import QuantLinear

# Owners that pass the weights of these layers to a function: by class name, for quant knows torch
# only. What stands in their other layers, but for those they call, is computed from constants.
BORROWERS: Mapping[str, Sequence[str]] = {
    "torchvision.models.swin_transformer.ShiftedWindowAttention": ("qkv", "proj"),
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": ("qkv", "proj"),
    "timm.models.swin_transformer_v2.WindowAttention": ("qkv",),
    "timm.models.beit.Attention": ("qkv",),
    "timm.models.eva.EvaAttention": ("qkv",),
}
_CALLED = ("proj", "q_proj", "k_proj", "v_proj", "gate")


def borrows(module: nn.Module) -> Sequence[str]:
    """Return the names of the layers whose weights ``module`` passes to a function."""
    kind = type(module)
    return BORROWERS.get(f"{kind.__module__}.{kind.__qualname__}", ())


def takes_part(module: nn.Module) -> Sequence[str]:
    """Return the names of the layers of a borrower that see the data, borrowed or called."""
    return (*borrows(module), *_CALLED) if borrows(module) else ()


class BorrowedLinear(QuantLinear):
    """A ``QuantLinear`` whose ``weight``, passed to ``F.linear``, calls the layer.

    ``master_weight`` and ``parameters()`` give the Parameter itself.
    """

    def __getattr__(self, name: str) -> Any:
        """Return what the module holds, and a stand-in for its weight."""
        value: Any = super().__getattr__(name)
        return _StandIn(self, value) if name == "weight" else value

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ``input`` times the weight's transpose, both quantized, plus the given bias."""
        x, weight = self.quantized(input)
        return F.linear(x, weight, bias)


class _StandIn:
    """Looks like the weight, and calls its layer where it is multiplied with."""

    def __init__(self, layer: BorrowedLinear, weight: Tensor) -> None:
        self._layer = layer
        self._weight = weight

    def __getattr__(self, name: str) -> Any:
        return getattr(self._weight, name)

    @classmethod
    def __torch_function__(
        cls,
        function: Any,
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.linear:
            return cls._linear(*args, **kwargs)
        real = [cls._real(one) for one in args]
        return function(*real, **{key: cls._real(one) for key, one in kwargs.items()})

    @classmethod
    def _real(cls, value: Any) -> Any:
        return value._weight if isinstance(value, cls) else value

    @staticmethod
    def _linear(input: Tensor, weight: _StandIn, bias: Tensor | None = None) -> Any:
        return weight._layer(input, bias)
