"""What a network's layers are called, told without memory for its weights."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from lsqctl.quant import layer_names
from lsqctl.quant.residual import residual_blocks
from lsqctl.training.models.weightless import build_on_meta


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
