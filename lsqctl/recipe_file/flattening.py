"""What a recipe says in full, by dotted key; a base too, but for what it leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lsqctl.recipe import Recipe, derived_defaults
from lsqctl.recipe_file.loaded import LoadedRecipe

# Stand in for what a base leaves open, so that all else can be filled in and checked.
_PLACEHOLDERS = {"model.name": "resnet18", "data.name": "imagenet", "distill.teacher": "open"}


def flat(recipe: Recipe | Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's values by dotted key, a section's keys in its place."""
    tree = recipe.model_dump(mode="json") if isinstance(recipe, Recipe) else recipe
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{leaf}": item for leaf, item in value.items()}
        else:
            found[key] = value
    return found


def flat_base(base: LoadedRecipe) -> tuple[dict[str, Any], frozenset[str]]:
    """Return what an abstract recipe says, defaults included, and the keys it leaves open.

    Without a network the first weights are open too; without a dataset, so is what follows from it.
    """
    given = {key: value for key, value in base.given.items() if key != "name"}
    tree = _nested(given)
    missing = {key for key in _PLACEHOLDERS if key not in given and _needed(key, tree)}
    filled = _nested({**given, **{key: _PLACEHOLDERS[key] for key in missing}})
    derived = {key: value for key, (value, _) in derived_defaults(filled).items()}
    whole = Recipe.model_validate(_nested({**derived, **flat(filled)}) | {"name": base.name})
    left = set(missing)
    if "model.name" in missing:
        left |= {"model.weights"} - given.keys()
    if "data.name" in missing:
        left |= {key for key in derived if key.startswith("data.")} - given.keys()
    values = {key: value for key, value in flat(whole).items() if key not in left}
    return values, frozenset(left)


def _needed(key: str, tree: Mapping[str, Any]) -> bool:
    return not key.startswith("distill.") or "distill" in tree


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for dotted, value in leaves.items():
        section, _, leaf = dotted.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[leaf] = value
    return tree
