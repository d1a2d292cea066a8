"""Build a network by name: with random weights, or without memory to ask for its layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lsqctl.discovery import Plugin, is_plugin_name, plugin_faults
from lsqctl.errors import DataError, PluginError
from lsqctl.models import MODELS, TIMM_PREFIX
from lsqctl.models.heads import example_of
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
    plugin = MODELS.plugin_of(name)
    network = _build(name, plugin, num_classes, in_channels, image_size)
    if plugin:
        _check_logits(network, name, plugin, (in_channels, image_size, image_size), num_classes)
    return network


def package_of(network: nn.Module) -> str:
    """Return which package built a network, with its version, where torchvision or timm did.

    Another version may compute a network of the same name otherwise. Else nothing.
    """
    package = type(network).__module__.partition(".")[0]
    return f"{package} {version(package)}" if package in {"torchvision", "timm"} else ""


def _build(
    name: str, plugin: Plugin | None, num_classes: int, in_channels: int, image_size: int
) -> nn.Module:
    build = MODELS.load(name)
    try:
        with plugin_faults(plugin, ValueError):
            network: nn.Module = build(
                num_classes=num_classes, in_channels=in_channels, image_size=image_size
            )
    except ValueError as error:
        raise DataError(f"{name} cannot take images of {image_size} pixels: {error}") from None
    if not isinstance(network, nn.Module):
        raise PluginError(f"the plugin model {name} is a {type(network).__name__}, no nn.Module")
    return network


def _check_logits(
    network: nn.Module, name: str, plugin: Plugin, shape: tuple[int, int, int], num_classes: int
) -> None:
    """Raise PluginError unless the network gives (1, num_classes) of one image; it stays as is."""
    was_training = network.training
    with torch.random.fork_rng(devices=[]), torch.no_grad(), plugin_faults(plugin):
        logits = network.eval()(torch.zeros(1, *shape))
    network.train(was_training)
    wanted = (1, num_classes)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise PluginError(
            f"the plugin model {name} gives {got} of one image {shape}, and not logits {wanted}: "
            "its last layer must have num_classes outputs"
        )


def build_on_meta(name: str, *, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Return the network as ``build_model`` does, its parameters and buffers on the meta device.

    One of a plugin that cannot be built so has real weights.
    """
    plugin = MODELS.plugin_of(name) if is_plugin_name(name) else None
    arguments = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    try:
        with warnings.catch_warnings(), _EmptyOnMeta():
            warnings.simplefilter("ignore")  # initializing on meta does nothing, which is meant
            built = _build(name, plugin, **arguments) if plugin else build_model(name, **arguments)
            return built.to("meta")  # buffers that were computed, too
    except PluginError:
        return build_model(name, **arguments)


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
    try:
        names = layer_names(model, example_of(model, (3, image_size, image_size)))
    except (RuntimeError, ValueError):  # too small an image: refused where the cost is counted
        names = layer_names(model)
    return NetworkLayers(tuple(names), bool(residual_blocks(model)))
