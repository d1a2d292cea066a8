"""Give a checkpoint back as a model ready to use, on the CPU."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lsqctl.quant import prepare
from lsqctl.recipe import Recipe
from lsqctl.training.checkpoint import read_checkpoint
from lsqctl.training.models import build_model


def restore_model(recipe: Recipe, directory: Path) -> nn.Module:
    """Return the recipe's network with a checkpoint's weights and step sizes, in evaluation mode.

    It takes normalized images (B, C, H, W). Raises DataError for a damaged checkpoint.
    """
    snapshot = read_checkpoint(directory)
    model = build_model(recipe.model.name, **snapshot.state["network"])
    if (spec := recipe.quant.spec()).quantized:
        model = prepare(model, spec)
    model.load_state_dict(snapshot.model)
    return model.eval()
