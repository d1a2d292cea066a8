"""Recipes as YAML files: load them with every fault and its place, write them, describe them."""

from lsqctl.recipe_file.codes import CODES, ErrorCode
from lsqctl.recipe_file.find import bundled_recipes
from lsqctl.recipe_file.flattening import flatten_recipe, flatten_base
from lsqctl.recipe_file.keys import KeyRow, keys_markdown, keys_table
from lsqctl.recipe_file.loaded import Cell, LoadedRecipe
from lsqctl.recipe_file.loading import load
from lsqctl.recipe_file.overrides import layer_diagnostics
from lsqctl.recipe_file.parents import RecipeSummary, Parent, find_parent, recipe_summaries
from lsqctl.recipe_file.schema import SCHEMA_FILE, json_schema, template
from lsqctl.recipe_file.writing import dump

__all__ = [
    "CODES",
    "SCHEMA_FILE",
    "Cell",
    "ErrorCode",
    "RecipeSummary",
    "LoadedRecipe",
    "Parent",
    "KeyRow",
    "bundled_recipes",
    "dump",
    "find_parent",
    "flatten_recipe",
    "flatten_base",
    "recipe_summaries",
    "json_schema",
    "keys_markdown",
    "keys_table",
    "layer_diagnostics",
    "load",
    "template",
]
