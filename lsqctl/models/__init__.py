"""The networks that a recipe may name: one module each, or one for a family.

``@model(NAMES, …)`` declares a function that builds them: it is called with ``num_classes``,
``in_channels`` and ``image_size`` (pixels a side) by keyword, before them with the name where it
declares several, and returns a network with random weights that takes images (B, in_channels,
image_size, image_size) and gives logits (B, num_classes). It raises ValueError for images that
the network cannot take. ``MODELS`` knows the names, and what is said of them, without torch;
``factory`` builds. On top come the names of the timm library: which there are, only timm knows.
"""

from __future__ import annotations

from dataclasses import dataclass

from lsqctl.registry import Registry

__all__ = ["MODELS", "TIMM_PATTERN", "TIMM_PREFIX", "ModelInfo", "input_channels", "model"]

TIMM_PREFIX = "timm/"
TIMM_PATTERN = r"timm/[A-Za-z0-9_]+"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is known of a network before it is built.

    ``input_channels`` is None where it takes images of any number of channels; ``depthwise`` says
    that it has convolutions with one channel a group (a test holds it to what is built).
    ``any_size`` is false for one that refuses images of some sizes when it is built.
    """

    input_channels: int | None = None
    depthwise: bool = False
    any_size: bool = True


MODELS = Registry(__name__, "model", ModelInfo, noun="model", group="lsqctl.models")
model = MODELS.declare


def input_channels(name: str, image_channels: int) -> int:
    """Return how many channels the network takes: those of the images, or always three.

    Grey images are repeated to three channels by ``DataPipeline``, after normalization.
    """
    if name.startswith(TIMM_PREFIX):
        return 3
    return MODELS.find(name).input_channels or image_channels
