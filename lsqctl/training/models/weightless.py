"""Build a network whose weights take no memory, to count what it costs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lsqctl.training.models.registry import build_model


def build_on_meta(
    name: str, *, num_classes: int, in_channels: int, image_size: int
) -> nn.Module:
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
