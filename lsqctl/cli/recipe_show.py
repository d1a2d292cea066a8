"""Print a recipe complete, and what its network costs.

Apart because it needs the loader of recipes, which no command may load at start.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lsqctl.cli.console import print_json, warn
from lsqctl.cli.run_detail import cost_line
from lsqctl.errors import LsqctlError
from lsqctl.recipe_file import LoadedRecipe, dump
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.recipe import Recipe
    from lsqctl.services.cost import CostCache, RecipeCost


def print_cells(loaded: LoadedRecipe, settings: Settings) -> None:
    """Print each cell as YAML; its cost is a comment, so that the whole loads back."""
    from lsqctl.services.cost import CostCache

    cost_cache = CostCache(settings)
    for number, cell in enumerate(loaded.cells):
        sys.stdout.write(("---\n" if number else "") + dump(cell.recipe, cell.origins))
        sys.stdout.flush()  # counting imports torch, which takes seconds
        if (recipe_cost := _cost_or_warning(cost_cache, cell.recipe)) is not None:
            print(f"# cost: {cost_line(recipe_cost.cost)} {_assumptions_text(recipe_cost)}")


def print_cells_json(loaded: LoadedRecipe, settings: Settings) -> None:
    """Print each cell for a machine, with its cost in all and layer by layer."""
    from lsqctl.services.cost import CostCache

    cost_cache = CostCache(settings)
    cells: list[dict[str, object]] = []
    for cell in loaded.cells:
        recipe_cost = _cost_or_warning(cost_cache, cell.recipe)
        cells.append(
            {
                "label": cell.label,
                "recipe": cell.recipe.model_dump(mode="json"),
                "sources": cell.origins,
                "cost": recipe_cost.as_dict() if recipe_cost else None,
            }
        )
    document = {"name": loaded.name, "path": loaded.path, "cells": cells}
    if len(cells) == 1:
        document["cost"] = cells[0]["cost"]
    print_json(document)


def _assumptions_text(recipe_cost: RecipeCost) -> str:
    shape = "x".join(map(str, recipe_cost.input_shape))
    assumed = (
        " (assumed: the data is not at hand)" if recipe_cost.classes_source == "assumed" else ""
    )
    return f"for {shape} and {recipe_cost.classes} classes{assumed}"


def _cost_or_warning(cost_cache: CostCache, recipe: Recipe) -> RecipeCost | None:
    try:
        return cost_cache.get(recipe)
    except LsqctlError as error:
        warn(f"{recipe.name}: no cost: {error}")
        return None
