"""Recipes as YAML files: load them with every fault and its place, write them, describe them."""

from lsqctl.recipe_file.codes import CODES, Code
from lsqctl.recipe_file.find import bundled_recipes
from lsqctl.recipe_file.flattening import flat, flat_base
from lsqctl.recipe_file.keys import Row, keys_markdown, keys_table
from lsqctl.recipe_file.loaded import Cell, LoadedRecipe
from lsqctl.recipe_file.loading import load
from lsqctl.recipe_file.overrides import layer_faults
from lsqctl.recipe_file.parents import Header, Parent, find_parent, headers
from lsqctl.recipe_file.schema import SCHEMA_FILE, json_schema, template
from lsqctl.recipe_file.writing import dump

__all__ = [
    "CODES",
    "SCHEMA_FILE",
    "Cell",
    "Code",
    "Header",
    "LoadedRecipe",
    "Parent",
    "Row",
    "bundled_recipes",
    "dump",
    "find_parent",
    "flat",
    "flat_base",
    "headers",
    "json_schema",
    "keys_markdown",
    "keys_table",
    "layer_faults",
    "load",
    "template",
]
