"""Linear layers whose weights their owner passes to a function, as torchvision's Swin does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

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

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        """Return what the module holds, and a proxy for its weight."""
        value = super().__getattr__(name)
        if name == "weight" and isinstance(value, Tensor):
            return cast("Tensor", _WeightProxy(self, value))
        return value

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ``input`` times the weight's transpose, both quantized, plus the given bias."""
        return self._linear(input, bias)


class _WeightProxy:
    """Looks like the weight, and calls its layer where it is multiplied with."""

    def __init__(self, layer: FunctionalLinear, weight: Tensor) -> None:
        self._layer = layer
        self._weight = weight

    def __getattr__(self, name: str) -> object:
        return getattr(self._weight, name)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if function is F.linear:
            linear: Callable[..., object] = cls._linear
            return linear(*args, **kwargs)
        unwrapped = [cls._unwrap(argument) for argument in args]
        return function(
            *unwrapped, **{key: cls._unwrap(argument) for key, argument in kwargs.items()}
        )

    @classmethod
    def _unwrap(cls, value: object) -> object:
        return value._weight if isinstance(value, cls) else value

    @staticmethod
    def _linear(input: Tensor, weight: _WeightProxy, bias: Tensor | None = None) -> object:
        return weight._layer(input, bias)
