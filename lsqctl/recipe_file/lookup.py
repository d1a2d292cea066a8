"""Recipes by what they are called: a path, a bundled name, and the name of one cell of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lsqctl.errors import NotFound
from lsqctl.recipe_file.find import (
    RecipeFile,
    bundled_recipes,
    find_bundled,
    find_recipe,
    recipe_file_at,
)
from lsqctl.recipe_file.loaded_recipe import Cell, LoadedRecipe
from lsqctl.recipe_file.loader import load_complete, load_file
from lsqctl.recipe_file.sweep_cells import NO_CHANGES, Changes
from lsqctl.text import sanitize, three_closest_names


def load(
    ref: str | Path, changes: Changes = NO_CHANGES, *, abstract_ok: bool = False
) -> LoadedRecipe:
    """Return the recipe at a path or of a bundled name, or one cell of a bundled sweep, complete.

    An abstract recipe is refused unless ``abstract_ok``. Raises NotFound, or RecipeError with
    every mistake of the file, of its bases and of its cells.
    """
    try:
        recipe_file = find_recipe(ref)
    except NotFound as not_found:
        return _load_cell(str(ref), changes, not_found)
    return load_file(recipe_file, changes, abstract_ok=abstract_ok)


def _load_cell(name: str, changes: Changes, not_found: NotFound) -> LoadedRecipe:
    """Return a cell of a bundled sweep, in all of its seeds, as a recipe of its own."""
    try:
        sweep, cells = find_parent(name)
    except NotFound:
        raise _nearest_cells(name) or not_found from None
    if changes == NO_CHANGES:
        alone = tuple(replace(cell, label="") for cell in cells)
        sweep = replace(sweep, halving=None, space={}, is_sweep=len(alone) > 1)
        return replace(sweep, name=name, cells=alone, origins=cells[0].origins)
    seeds = changes.seeds or tuple(cell.recipe.seed for cell in cells)
    return load_complete(cells[0].recipe, name, sweep.path, replace(changes, seeds=seeds))


def cell_names(name: str) -> Sequence[str]:
    """Return what the cells of a bundled sweep are called; nothing for what is no sweep."""
    if (recipe_file := find_bundled(name)) is None:
        return []
    cells = load_file(recipe_file, abstract_ok=True).cells
    return [cell for cell in dict.fromkeys(cell.recipe.name for cell in cells) if cell != name]


def _nearest_cells(name: str) -> NotFound | None:
    """Return the refusal of what looks like a cell of a bundled sweep; None where nothing does."""
    stem = name.rpartition("-")[0]
    while stem and not (cells := cell_names(stem)):
        stem = stem.rpartition("-")[0]
    if not stem:
        return None
    nearest = ", ".join(
        f"`{one}`" for one in three_closest_names(name, [*bundled_recipes(), *cells])
    )
    return NotFound(
        f"no bundled recipe `{sanitize(name)}`; the nearest are {nearest} (all cells of `{stem}`: "
        f"lsqctl submit {stem} --dry-run)"
    )


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
    nearest = ", ".join(f"`{bundled}`" for bundled in three_closest_names(name, bundled_recipes()))
    beside = f"beside {near.name} or " if near else ""
    raise NotFound(
        f"no recipe `{sanitize(name)}` {beside}among the bundled ones; the nearest are {nearest}"
    )


def _candidate_files(name: str, near: Path | None) -> Iterator[RecipeFile]:
    if near is not None and "\0" not in name and ".." not in name and len(name) < 256:
        leaf = name.rpartition("/")[2]
        for path in dict.fromkeys((near.parent / f"{name}.yaml", near.parent / f"{leaf}.yaml")):
            if path.is_file():
                yield recipe_file_at(path)
    if (recipe_file := find_bundled(name)) is not None:
        yield recipe_file
