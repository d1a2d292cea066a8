"""Give a checkpoint back as a model ready to use, on the CPU."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lsqctl.quant import prepare
from lsqctl.recipe import Recipe
from lsqctl.training.checkpoint import load_model_state, read_state
from lsqctl.training.models import build_model


def restore_model(recipe: Recipe, directory: Path, variant: str | None = None) -> nn.Module:
    """Return the recipe's network with a checkpoint's weights and step sizes, in evaluation mode.

    It takes normalized images (B, C, H, W). ``variant`` is raw, ema or bn, None the recipe's
    headline. Raises DataError for a damaged checkpoint, and for a variant that it does not hold.
    """
    model = build_model(recipe.model.name, **read_state(directory)["network"])
    if (spec := recipe.quant.spec()).quantized:
        model = prepare(model, spec)
    model.load_state_dict(load_model_state(directory, variant))
    return model.eval()
