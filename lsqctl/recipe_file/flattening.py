"""What a recipe says in full, by dotted key; a base too, but for what it leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lsqctl.recipe import Recipe, derived_defaults
from lsqctl.recipe_file.loaded import LoadedRecipe

# Stand in for what a base leaves open, so that all else can be filled in and checked.
_PLACEHOLDERS = {"model.name": "resnet18", "data.name": "imagenet", "distill.teacher": "open"}


def flatten_recipe(recipe: Recipe | Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's values by dotted key, a section's keys instead of it."""
    tree = recipe.model_dump(mode="json") if isinstance(recipe, Recipe) else recipe
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            values |= {f"{key}.{leaf}": item for leaf, item in value.items()}
        else:
            values[key] = value
    return values


def flatten_base(base: LoadedRecipe) -> tuple[dict[str, Any], frozenset[str]]:
    """Return what an abstract recipe says, defaults included, and the keys it leaves open.

    Without a network the first weights are open too; without a dataset, so is what follows from it.
    """
    explicit = {key: value for key, value in base.explicit.items() if key != "name"}
    tree = _unflatten(explicit)
    missing = {key for key in _PLACEHOLDERS if key not in explicit and _is_required(key, tree)}
    filled = _unflatten({**explicit, **{key: _PLACEHOLDERS[key] for key in missing}})
    derived = {key: value for key, (value, _) in derived_defaults(filled).items()}
    complete = Recipe.model_validate(
        _unflatten({**derived, **flatten_recipe(filled)}) | {"name": base.name}
    )
    open_keys = set(missing)
    if "model.name" in missing:
        open_keys |= {"model.weights"} - explicit.keys()
    if "data.name" in missing:
        open_keys |= {key for key in derived if key.startswith("data.")} - explicit.keys()
    values = {key: value for key, value in flatten_recipe(complete).items() if key not in open_keys}
    return values, frozenset(open_keys)


def _is_required(key: str, tree: Mapping[str, Any]) -> bool:
    return not key.startswith("distill.") or "distill" in tree


def _unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for dotted, value in leaves.items():
        section, _, leaf = dotted.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[leaf] = value
    return tree
