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
FUNCTIONAL_OWNERS: Mapping[str, Sequence[str]] = {
    "torchvision.models.swin_transformer.ShiftedWindowAttention": ("qkv", "proj"),
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": ("qkv", "proj"),
    "timm.models.swin_transformer_v2.WindowAttention": ("qkv",),
    "timm.models.beit.Attention": ("qkv",),
    "timm.models.eva.EvaAttention": ("qkv",),
}
_CALLED_LAYERS = ("proj", "q_proj", "k_proj", "v_proj", "gate")


def functional_layers(owner: nn.Module) -> Sequence[str]:
    """Return the names of the layers whose weights ``owner`` passes to a function."""
    owner_class = type(owner)
    return FUNCTIONAL_OWNERS.get(f"{owner_class.__module__}.{owner_class.__qualname__}", ())


def data_layers(owner: nn.Module) -> Sequence[str]:
    """Return the names of ``owner``'s layers that see data, by their weight or called."""
    return (*functional_layers(owner), *_CALLED_LAYERS) if functional_layers(owner) else ()


class FunctionalLinear(QuantLinear):
    """A ``QuantLinear`` whose ``weight``, passed to ``F.linear``, calls the layer.

    ``master_weight`` and ``parameters()`` give the Parameter itself.
    """

    def __getattr__(self, name: str) -> Any:
        """Return what the module holds, and a proxy for its weight."""
        value: Any = super().__getattr__(name)
        return _WeightProxy(self, value) if name == "weight" else value

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ``input`` times the weight's transpose, both quantized, plus the given bias."""
        x, weight = self.quantized_operands(input)
        return F.linear(x, weight, bias)


class _WeightProxy:
    """Looks like the weight, and calls its layer where it is multiplied with."""

    def __init__(self, layer: FunctionalLinear, weight: Tensor) -> None:
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
        unwrapped = [cls._unwrap(argument) for argument in args]
        return function(*unwrapped, **{key: cls._unwrap(argument) for key, argument in kwargs.items()})

    @classmethod
    def _unwrap(cls, value: Any) -> Any:
        return value._weight if isinstance(value, cls) else value

    @staticmethod
    def _linear(input: Tensor, weight: _WeightProxy, bias: Tensor | None = None) -> Any:
        return weight._layer(input, bias)
