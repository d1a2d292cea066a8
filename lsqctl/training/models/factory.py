"""Build a network by name: with random weights, or without memory to ask for its layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lsqctl.errors import DataError, NotFound
from lsqctl.quant import layer_names
from lsqctl.quant.residual import residual_blocks
from lsqctl.recipe import BUILTIN_MODELS, MODEL_NAMES, TIMM_PREFIX, TORCHVISION_MODELS
from lsqctl.text import did_you_mean
from lsqctl.training.models.cifar_resnet import CifarResNet
from lsqctl.training.models.preact_resnet import DEPTHS, PreactResNet
from lsqctl.training.models.squeezenext import SqueezeNext
from lsqctl.training.models.timm_networks import build_timm

# resnet8, one block a stage, is the smallest of the CIFAR family, for 8x8 to 32x32.
_OWN_BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "resnet8": partial(CifarResNet, 1),
    **{f"cifar_resnet{6 * n + 2}": partial(CifarResNet, n) for n in (3, 5, 7, 9, 18)},
    **{f"preact_resnet{depth}": partial(PreactResNet, depth) for depth in DEPTHS},
    "squeezenext23_2x": partial(SqueezeNext, 2),
}

# Names that can be built, besides timm/NAME; a test holds them equal to what a recipe accepts.
MODELS: tuple[str, ...] = tuple(sorted((*TORCHVISION_MODELS, *_OWN_BUILDERS)))

_TORCHVISION_ARGS: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def input_channels(name: str, image_channels: int) -> int:
    """Return how many channels the network takes: those of the images, or always three.

    Grey images are repeated to three channels by ``DataPipeline``, after normalization.
    """
    return image_channels if name in BUILTIN_MODELS else 3


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
    if name in _OWN_BUILDERS:
        return _OWN_BUILDERS[name](num_classes=num_classes, in_channels=in_channels)
    if name not in TORCHVISION_MODELS:
        raise NotFound(f"no model is named `{name}`{did_you_mean(name, MODEL_NAMES)}")
    return _build_torchvision(name, num_classes, image_size)


def _build_torchvision(name: str, num_classes: int, image_size: int) -> nn.Module:
    from torchvision.models import get_model

    kwargs: dict[str, Any] = dict(_TORCHVISION_ARGS.get(name, {}))
    if name.startswith("vit_"):
        kwargs["image_size"] = image_size
    if name.startswith("maxvit_"):
        kwargs["input_size"] = (image_size, image_size)
    try:
        model: nn.Module = get_model(name, weights=None, num_classes=num_classes, **kwargs)
    except (ValueError, AssertionError) as error:
        raise DataError(f"{name} cannot take images of {image_size} pixels: {error}") from None
    return model


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
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
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
