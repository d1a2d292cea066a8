"""What a network's layers are called, told without memory for its weights."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from lsqctl.quant import layer_names
from lsqctl.quant.residual import residual_blocks
from lsqctl.training.models.weightless import build_weightless


class Outline(NamedTuple):
    """The layers that may be quantized, and whether the network's residual additions are known."""

    layers: tuple[str, ...]
    residual: bool


@lru_cache(maxsize=32)
def outline(name: str, *, image_size: int) -> Outline:
    """Return the outline of a network for images of ``image_size`` pixels.

    Raises NotFound for an unknown name, DataError where it cannot take images of this size.
    """
    model = build_weightless(name, num_classes=10, in_channels=3, image_size=image_size)
    return Outline(tuple(layer_names(model)), bool(residual_blocks(model)))
