"""Check what recipes say of single layers against their networks, before anything is queued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lsqctl.errors import Diagnostic
from lsqctl.quant.spec import NONE_BITS
from lsqctl.recipe import Recipe
from lsqctl.recipe_file import Cell, LoadedRecipe, layer_faults


def check_layers(recipes: Sequence[LoadedRecipe]) -> list[Diagnostic]:
    """Return the faults of globs and keys that fit no layer of their network, each once.

    Only a recipe with such a key has its network built, without memory for its weights.
    """
    return [diagnostic for recipe in recipes for diagnostic in _layer_diagnostics(recipe)]


def _layer_diagnostics(recipe: LoadedRecipe) -> list[Diagnostic]:
    """Return a recipe's faults; one that only some cells have names the first of them."""
    cells_by_diagnostic: dict[Diagnostic, list[Cell]] = {}
    for cell in recipe.cells:
        if _names_layers(cell.recipe):
            from lsqctl.training.models.outline import network_layers

            size = cell.recipe.data.image_size
            names, residual = network_layers(cell.recipe.model.name, image_size=size)
            for diagnostic in layer_faults(cell, names, residual=residual):
                cells_by_diagnostic.setdefault(diagnostic, []).append(cell)
    return [
        diagnostic if len(cells) == len(recipe.cells) else replace(diagnostic, cell=f"cell {cells[0].label}")
        for diagnostic, cells in cells_by_diagnostic.items()
    ]


def _names_layers(recipe: Recipe) -> bool:
    return bool(recipe.quant.overrides) or recipe.quant.residual_bits != NONE_BITS
