"""Networks of the timm library, by ``timm/NAME``: random weights, nothing downloaded.

timm is an extra: without it each call ends in one line that says how to get it.
"""

from __future__ import annotations

from types import ModuleType

from torch import nn

from lsqctl.errors import DataError, NotFound
from lsqctl.models import TIMM_PREFIX
from lsqctl.text import did_you_mean


def check_timm_name(name: str) -> None:
    """Raise NotFound, with the nearest name, unless timm has a network of this name."""
    timm_names = _import_timm(name).list_models()
    if (timm_name := name.removeprefix(TIMM_PREFIX)) not in timm_names:
        suggestion = did_you_mean(timm_name, timm_names).replace("`", f"`{TIMM_PREFIX}", 1)
        raise NotFound(f"timm has no network `{timm_name}`{suggestion}")


def build_timm(name: str, *, num_classes: int, image_size: int) -> nn.Module:
    """Return the network, taking (B, 3, image_size, image_size).

    Raises DataError where timm is not installed or the network cannot take images of this size.
    """
    timm = _import_timm(name)
    check_timm_name(name)
    timm_name = name.removeprefix(TIMM_PREFIX)
    config = timm.get_pretrained_cfg(timm_name, allow_unregistered=False)
    size_args = {"img_size": image_size} if getattr(config, "fixed_input_size", False) else {}
    try:
        model: nn.Module = timm.create_model(
            timm_name, pretrained=False, num_classes=num_classes, **size_args
        )
    except (ValueError, AssertionError, TypeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{name} cannot take images of {image_size} pixels: {reason}") from None
    return _with_torch_linear(model)


def _with_torch_linear(model: nn.Module) -> nn.Module:
    """Make timm's own Linear, which casts for TorchScript only, the nn.Linear that it is."""
    from timm.layers import Linear

    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = nn.Linear
    return model


def _import_timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError:
        raise DataError(f"{name} needs timm: pip install 'lsqctl[timm]'") from None
    module: ModuleType = timm
    return module
