"""Quantize both inputs of every residual addition; the paper leaves them as they are.

Torch's graph quantization, which ADLIK's LSQ results were trained with, does quantize them. An
addition is no module, so it is found by the block it is in: a block names the two of its modules
whose outputs it adds in an attribute ``residual_inputs``; torchvision's are in ``RESIDUAL_INPUTS``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.spec import TensorSpec

# Blocks of others, by class name, for quant knows torch only: (branch, shortcut). They add to the
# branch in place, which is therefore a copy: the quantizer's backward pass needs what it returned.
RESIDUAL_INPUTS: Mapping[str, tuple[str, str]] = {
    "torchvision.models.resnet.BasicBlock": ("bn2", "downsample"),
    "torchvision.models.resnet.Bottleneck": ("bn3", "downsample"),
}


def residual_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Return the blocks whose additions are known, by name."""
    return {name: module for name, module in model.named_modules() if _residual_inputs(module)}


def quantize_residuals(model: nn.Module, spec: TensorSpec) -> None:
    """Give both inputs of each known block's addition a quantizer, under ``residual_quantizers``.

    A shortcut that is None becomes an ``nn.Identity``; no other module is replaced and no key of
    the state changes.

    Raises:
        ValueError: the model has no known block.
    """
    blocks = residual_blocks(model)
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} has no residual addition that is known here (those of "
            "torchvision's ResNets, and of blocks that name their residual_inputs are): leave "
            "residual_bits at 32"
        )
    for block in blocks.values():
        names = _residual_inputs(block)
        assert names is not None
        by_role = nn.ModuleDict()
        for role, name in zip(("branch", "shortcut"), names, strict=True):
            by_role[role] = quantizer = _new_quantizer(block, spec)
            clone_output = role == "branch" and not hasattr(block, "residual_inputs")
            _ensure_module(block, name).register_forward_hook(
                _QuantizeOutputHook(quantizer, clone_output=clone_output)
            )
        block.residual_quantizers = by_role


def _residual_inputs(module: nn.Module) -> tuple[str, str] | None:
    block_class = type(module)
    registered = RESIDUAL_INPUTS.get(f"{block_class.__module__}.{block_class.__qualname__}")
    names: tuple[str, str] | None = getattr(module, "residual_inputs", registered)
    return names


def _ensure_module(block: nn.Module, name: str) -> nn.Module:
    if getattr(block, name, block) is None:  # as torchvision sets it, no module of its block
        setattr(block, name, nn.Identity())
    return block.get_submodule(name)


def _new_quantizer(block: nn.Module, spec: TensorSpec) -> LsqQuantizer:
    parameter = next(block.parameters())
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    return LsqQuantizer(spec, batched=True, channel_axis=-3, device=parameter.device, dtype=dtype)


class _QuantizeOutputHook:
    """A forward hook that quantizes what a module returns; copied along with its model."""

    def __init__(self, quantizer: LsqQuantizer, *, clone_output: bool) -> None:
        self.quantizer = quantizer
        self.clone_output = clone_output

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        out: Tensor = self.quantizer(output)
        return out.clone() if self.clone_output else out
