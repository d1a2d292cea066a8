"""Check what recipes say of single layers against their networks, before anything is queued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lsqctl.errors import Fault
from lsqctl.quant.spec import NONE_BITS
from lsqctl.recipe import Recipe
from lsqctl.recipe_file import Cell, LoadedRecipe, layer_faults


def check_layers(loaded: Sequence[LoadedRecipe]) -> list[Fault]:
    """Return the faults of globs and keys that fit no layer of their network, each once.

    Only a recipe with such a key has its network built, without memory for its weights.
    """
    return [fault for recipe in loaded for fault in _faults(recipe)]


def _faults(recipe: LoadedRecipe) -> list[Fault]:
    """Return a recipe's faults; one that only some cells have names the first of them."""
    found: dict[Fault, list[Cell]] = {}
    for cell in recipe.cells:
        if _names_layers(cell.recipe):
            from lsqctl.training.models.outline import outline

            size = cell.recipe.data.image_size
            names, residual = outline(cell.recipe.model.name, image_size=size)
            for fault in layer_faults(cell, names, residual=residual):
                found.setdefault(fault, []).append(cell)
    return [
        fault if len(cells) == len(recipe.cells) else replace(fault, cell=f"cell {cells[0].label}")
        for fault, cells in found.items()
    ]


def _names_layers(recipe: Recipe) -> bool:
    return bool(recipe.quant.overrides) or recipe.quant.residual_bits != NONE_BITS
