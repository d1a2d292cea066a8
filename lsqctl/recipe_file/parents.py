"""The recipe that another one names by ``{run: NAME}``, and the list of what ships."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lsqctl.errors import NotFound, RecipeError
from lsqctl.recipe_file.find import RecipeFile, recipe_file_at, bundled_recipes, find_bundled
from lsqctl.recipe_file.loaded import Cell, LoadedRecipe
from lsqctl.recipe_file.loading import load_file
from lsqctl.recipe_file.nodes import escape
from lsqctl.recipe_file.spelling import three_closest_names


class Parent(NamedTuple):
    """The file a parent is in, and its cells of that name, one for each seed."""

    loaded: LoadedRecipe
    cells: tuple[Cell, ...]


def find_parent(name: str, near: Path | None = None) -> Parent:
    """Return the recipe called ``name``, be it a cell of a sweep.

    It is looked for beside the file ``near``, then among the bundled ones; ``a/b-w4a4-lr0.1`` may
    be a cell of ``a/b-w4a4`` or of ``a/b``. Raises NotFound, and RecipeError for one with errors.
    """
    stem = name
    while stem:
        for recipe_file in _candidate_files(stem, near):
            loaded = load_file(recipe_file, abstract_ok=True)
            if cells := tuple(cell for cell in loaded.cells if cell.recipe.name == name):
                return Parent(loaded, cells)
        stem = stem.rpartition("-")[0]
    nearest_names = ", ".join(
        f"`{candidate}`" for candidate in three_closest_names(name, bundled_recipes())
    )
    beside = f"beside {near.name} or " if near else ""
    raise NotFound(
        f"no recipe `{escape(name)}` {beside}among the bundled ones; the nearest are {nearest_names}"
    )


@dataclass(frozen=True, slots=True)
class RecipeSummary:
    """One line of ``recipe ls``. ``cells`` counts the runs that the recipe stands for."""

    name: str
    description: str
    abstract: bool
    cells: int


def recipe_summaries() -> list[RecipeSummary]:
    """Return a line for each bundled recipe."""
    return list(_recipe_summaries())


def _recipe_summaries() -> Iterator[RecipeSummary]:
    for name in bundled_recipes():
        recipe_file = find_bundled(name)
        if recipe_file is None:
            continue
        try:
            loaded = load_file(recipe_file, abstract_ok=True)
        except RecipeError as error:
            count = len(error.diagnostics)
            description = f"has {count} error{'s' * (count != 1)}: lsqctl recipe check {name}"
            yield RecipeSummary(name, description, False, 0)
        else:
            yield RecipeSummary(name, loaded.description, loaded.abstract, len(loaded.cells))


def _candidate_files(name: str, near: Path | None) -> Iterator[RecipeFile]:
    if near is not None and "\0" not in name and ".." not in name and len(name) < 256:
        leaf = name.rpartition("/")[2]
        for path in dict.fromkeys((near.parent / f"{name}.yaml", near.parent / f"{leaf}.yaml")):
            if path.is_file():
                yield recipe_file_at(path)
    if (recipe_file := find_bundled(name)) is not None:
        yield recipe_file
