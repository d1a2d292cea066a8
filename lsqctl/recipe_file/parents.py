"""The recipe that another one names by ``{run: NAME}``, and the list of what ships."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lsqctl.errors import NotFound, RecipeError
from lsqctl.recipe_file.find import Found, at, bundled_recipes, find_bundled
from lsqctl.recipe_file.loaded import Cell, LoadedRecipe
from lsqctl.recipe_file.loading import load_found
from lsqctl.recipe_file.nodes import visible
from lsqctl.recipe_file.spelling import three_closest


class Parent(NamedTuple):
    """The file a parent is in, and its cells of that name, one for each seed."""

    loaded: LoadedRecipe
    cells: tuple[Cell, ...]


def find_parent(name: str, near: Path | None = None) -> Parent:
    """Return the recipe called ``name``, be it a cell of a sweep.

    It is looked for beside the file ``near``, then among the bundled ones; ``a/b-w4a4-lr0.1`` may
    be a cell of ``a/b-w4a4`` or of ``a/b``. Raises NotFound, and RecipeError for one with faults.
    """
    stem = name
    while stem:
        for found in _candidates(stem, near):
            loaded = load_found(found, abstract_ok=True)
            if cells := tuple(cell for cell in loaded.cells if cell.recipe.name == name):
                return Parent(loaded, cells)
        stem = stem.rpartition("-")[0]
    close = ", ".join(f"`{known}`" for known in three_closest(name, bundled_recipes()))
    beside = f"beside {near.name} or " if near else ""
    raise NotFound(
        f"no recipe `{visible(name)}` {beside}among the bundled ones; the nearest are {close}"
    )


@dataclass(frozen=True, slots=True)
class Header:
    """One line of ``recipe ls``. ``cells`` counts the runs that the recipe stands for."""

    name: str
    description: str
    abstract: bool
    cells: int


def headers() -> list[Header]:
    """Return a line for each bundled recipe."""
    return list(_headers())


def _headers() -> Iterator[Header]:
    for name in bundled_recipes():
        found = find_bundled(name)
        if found is None:
            continue
        try:
            loaded = load_found(found, abstract_ok=True)
        except RecipeError as error:
            count = len(error.diagnostics)
            told = f"has {count} fault{'s' * (count != 1)}: lsqctl recipe check {name}"
            yield Header(name, told, False, 0)
        else:
            yield Header(name, loaded.description, loaded.abstract, len(loaded.cells))


def _candidates(name: str, near: Path | None) -> Iterator[Found]:
    if near is not None and "\0" not in name and ".." not in name and len(name) < 256:
        leaf = name.rpartition("/")[2]
        for path in dict.fromkeys((near.parent / f"{name}.yaml", near.parent / f"{leaf}.yaml")):
            if path.is_file():
                yield at(path)
    if (found := find_bundled(name)) is not None:
        yield found
