"""Build a network by name: with random weights, or without memory to ask for its layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lsqctl.errors import DataError
from lsqctl.models import MODELS, TIMM_PREFIX
from lsqctl.models.timm_models import build_timm
from lsqctl.quant import layer_names
from lsqctl.quant.residual import residual_blocks


def build_model(
    name: str, *, num_classes: int, in_channels: int = 3, image_size: int = 224
) -> nn.Module:
    """Return the network with random weights, taking (B, in_channels, image_size, image_size).

    Torchvision's and timm's take three channels, whatever ``in_channels`` says. Raises NotFound
    for an unknown name, DataError where the network cannot take images of this size or timm is
    needed and not installed.
    """
    if name.startswith(TIMM_PREFIX):
        return build_timm(name, num_classes=num_classes, image_size=image_size)
    build = MODELS.load(name)
    try:
        network: nn.Module = build(
            num_classes=num_classes, in_channels=in_channels, image_size=image_size
        )
    except ValueError as error:
        raise DataError(f"{name} cannot take images of {image_size} pixels: {error}") from None
    return network


def build_on_meta(name: str, *, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Return the network as ``build_model`` does, its weights on the meta device."""
    with warnings.catch_warnings(), _EmptyOnMeta():
        warnings.simplefilter("ignore")  # that initializing on meta does nothing, which is meant
        return build_model(
            name, num_classes=num_classes, in_channels=in_channels, image_size=image_size
        )


class _EmptyOnMeta(TorchFunctionMode):
    """Tensors to be initialized go to meta; what is computed, as RegNet's widths, stays real."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        changed = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **changed})


class NetworkLayers(NamedTuple):
    """The layers that may be quantized, and whether the network's residual additions are known."""

    names: tuple[str, ...]
    has_residual_blocks: bool


@lru_cache(maxsize=32)
def network_layers(name: str, *, image_size: int) -> NetworkLayers:
    """Return the layers of a network for images of ``image_size`` pixels.

    Raises NotFound for an unknown name, DataError where it cannot take images of this size.
    """
    model = build_on_meta(name, num_classes=10, in_channels=3, image_size=image_size)
    return NetworkLayers(tuple(layer_names(model)), bool(residual_blocks(model)))
