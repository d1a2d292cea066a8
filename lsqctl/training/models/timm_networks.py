"""Networks of the timm library, by ``timm/NAME``: random weights, nothing downloaded.

timm is an extra: without it each call ends in one line that says how to get it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from lsqctl.errors import DataError, NotFound, did_you_mean
from lsqctl.recipe import TIMM_PREFIX


def check_timm_name(name: str) -> None:
    """Raise NotFound, with the nearest name, unless timm has a network of this name."""
    known = _timm(name).list_models()
    if (bare := name.removeprefix(TIMM_PREFIX)) not in known:
        near = did_you_mean(bare, known).replace("`", f"`{TIMM_PREFIX}", 1)
        raise NotFound(f"timm has no network `{bare}`{near}")


def build_timm(name: str, *, num_classes: int, image_size: int) -> nn.Module:
    """Return the network, taking (B, 3, image_size, image_size).

    Raises DataError where timm is not installed or the network cannot take images of this size.
    """
    timm = _timm(name)
    check_timm_name(name)
    bare = name.removeprefix(TIMM_PREFIX)
    config = timm.get_pretrained_cfg(bare, allow_unregistered=False)
    fixed = {"img_size": image_size} if getattr(config, "fixed_input_size", False) else {}
    try:
        model: nn.Module = timm.create_model(
            bare, pretrained=False, num_classes=num_classes, **fixed
        )
    except (ValueError, AssertionError, TypeError, RuntimeError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{name} cannot take images of {image_size} pixels: {told}") from None
    return _plain_linear(model)


def _plain_linear(model: nn.Module) -> nn.Module:
    """Make timm's own Linear, which casts for TorchScript only, the nn.Linear that it is."""
    from timm.layers import Linear

    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = nn.Linear
    return model


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError:
        raise DataError(f"{name} needs timm: pip install 'lsqctl[timm]'") from None
    return timm
