"""In which precision layers compute: what a recipe says, or what the device multiplies itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from lsqctl.recipe import Recipe

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether a device is known to multiply bf16 itself: others imitate it, slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def decide_precision(recipe: Recipe, device: torch.device) -> str:
    """Return in which precision a run's layers compute, in all of its attempts."""
    if recipe.train.precision == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    return recipe.train.precision


def in_precision(recipe: Recipe, precision: str) -> Recipe:
    """Return the recipe with the precision that was decided instead of ``auto``."""
    train = recipe.train.model_copy(update={"precision": precision})
    return recipe.model_copy(update={"train": train})


def is_imitated(recipe: Recipe, device: torch.device) -> bool:
    """Return whether the recipe's precision is one that the device may only imitate."""
    return recipe.train.precision == "bf16" and not multiplies_bf16(device)


def precision_notes(recipe: Recipe, device: torch.device) -> Sequence[str]:
    """Return what to say where a device imitates the recipe's precision."""
    if not is_imitated(recipe, device):
        return []
    return [
        "this device is not known to multiply bf16, and an imitation takes many times as long as "
        "fp32: train.precision: auto or fp32"
    ]


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass: bf16 or fp16 autocast, or nothing for fp32."""
    if precision not in _DTYPES:
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])
