"""Print a recipe complete, and what its network costs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from lsqctl.cli.cost import cost_line
from lsqctl.cli.render import print_json, warn
from lsqctl.errors import LsqctlError
from lsqctl.recipe_file import LoadedRecipe, dump
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.api.cost import Costs, RecipeCost
    from lsqctl.recipe import Recipe


def print_cells(loaded: LoadedRecipe, settings: Settings) -> None:
    """Print each cell as YAML; its cost is a comment, so that the whole loads back."""
    from lsqctl.api.cost import Costs

    costs = Costs(settings)
    for number, cell in enumerate(loaded.cells):
        sys.stdout.write(("---\n" if number else "") + dump(cell.recipe, cell.origins))
        sys.stdout.flush()  # counting imports torch, which takes seconds
        if (found := _cost(costs, cell.recipe)) is not None:
            print(f"# cost: {cost_line(found.cost)} {_for_what(found)}")


def print_cells_json(loaded: LoadedRecipe, settings: Settings) -> None:
    """Print each cell for a machine, with its cost in all and layer by layer."""
    from lsqctl.api.cost import Costs

    costs = Costs(settings)
    cells: list[dict[str, Any]] = []
    for cell in loaded.cells:
        found = _cost(costs, cell.recipe)
        cells.append(
            {
                "label": cell.label,
                "recipe": cell.recipe.model_dump(mode="json"),
                "origins": cell.origins,
                "cost": found.as_dict() if found else None,
            }
        )
    whole = {"name": loaded.name, "path": loaded.path, "cells": cells}
    if len(cells) == 1:
        whole["cost"] = cells[0]["cost"]
    print_json(whole)


def _for_what(found: RecipeCost) -> str:
    shape = "x".join(map(str, found.input_shape))
    assumed = " (assumed: the data is not at hand)" if found.classes_from == "assumed" else ""
    return f"for {shape} and {found.classes} classes{assumed}"


def _cost(costs: Costs, recipe: Recipe) -> RecipeCost | None:
    try:
        return costs.of(recipe)
    except LsqctlError as error:
        warn(f"{recipe.name}: no cost: {error}")
        return None
