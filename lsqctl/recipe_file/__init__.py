"""Recipes as YAML files: load them with every mistake and its position, write, describe them."""

from lsqctl.recipe_file.error_codes import CODES, ErrorCode
from lsqctl.recipe_file.find import bundled_recipes, check_new_recipe
from lsqctl.recipe_file.keys import (
    SCHEMA_FILE,
    KeyRow,
    json_schema,
    keys_markdown,
    keys_table,
    template,
)
from lsqctl.recipe_file.loaded_recipe import Cell, Distribution, LoadedRecipe
from lsqctl.recipe_file.loader import RecipeSummary, load_complete, recipe_summaries
from lsqctl.recipe_file.lookup import Parent, find_parent, load
from lsqctl.recipe_file.serialization import dump, flatten_base, flatten_recipe
from lsqctl.recipe_file.sweep_cells import NO_CHANGES, Changes
from lsqctl.recipe_file.validation import conflict_diagnostic, layer_diagnostics

__all__ = [
    "CODES",
    "NO_CHANGES",
    "SCHEMA_FILE",
    "Cell",
    "Changes",
    "Distribution",
    "ErrorCode",
    "KeyRow",
    "LoadedRecipe",
    "Parent",
    "RecipeSummary",
    "bundled_recipes",
    "check_new_recipe",
    "conflict_diagnostic",
    "dump",
    "find_parent",
    "flatten_base",
    "flatten_recipe",
    "json_schema",
    "keys_markdown",
    "keys_table",
    "layer_diagnostics",
    "load",
    "load_complete",
    "recipe_summaries",
    "template",
]
