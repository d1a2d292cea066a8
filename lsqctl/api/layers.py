"""Check what recipes say of single layers against their networks, before anything is queued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lsqctl.errors import Fault
from lsqctl.quant.spec import NONE_BITS
from lsqctl.recipe import DATASETS, Recipe
from lsqctl.recipe_file import LoadedRecipe, layer_faults


def check_layers(loaded: Sequence[LoadedRecipe]) -> list[Fault]:
    """Return the faults of globs and keys that fit no layer of their network, each once.

    Only a recipe with such a key has its network built, without memory for its weights.
    """
    found: dict[Fault, str] = {}
    for recipe in loaded:
        for cell in recipe.cells:
            if not _names_layers(cell.recipe):
                continue
            from lsqctl.training.models.outline import outline

            names, residual = outline(cell.recipe.model.name, image_size=_size(cell.recipe))
            for fault in layer_faults(cell, names, residual=residual):
                found.setdefault(fault, f"cell {cell.label}" if len(recipe.cells) > 1 else "")
    return [replace(fault, cell=cell) for fault, cell in found.items()]


def _names_layers(recipe: Recipe) -> bool:
    return bool(recipe.quant.overrides) or recipe.quant.residual_bits != NONE_BITS


def _size(recipe: Recipe) -> int:
    facts = DATASETS[recipe.data.name]
    return recipe.data.crop if facts.folder else facts.size
