"""The running statistics of batch norm: held still while training ends, or estimated again after.

Weights that swing between two codes leave statistics that fit neither (Nagel et al., Overcoming
Oscillations in Quantization-Aware Training, ICML 2022).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_BN_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def batchnorms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return, by name, the batch norms that keep running statistics."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }


def freeze_bn(model: nn.Module) -> None:
    """Let batch norms normalize by their running statistics and keep them; gain and bias learn.

    Until the next ``model.train()``.
    """
    for norm in batchnorms(model).values():
        norm.eval()


@torch.no_grad()
def reestimate_bn(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Return a copy in evaluation mode whose running statistics are the plain mean over batches.

    ``batches`` are images ``(B, C, H, W)``, all of them weighed alike. Dropout stays off, and no
    random number is drawn.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    layers = batchnorms(model).values()
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch: the cumulative mean
        layer.train()
    for images in batches:
        model(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return model.eval()


def bn_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return the running statistics of every batch norm, by their keys in a state dict."""
    return {
        f"{name}.{key}": getattr(norm, key)
        for name, norm in batchnorms(model).items()
        for key in _BN_STATISTICS
    }
