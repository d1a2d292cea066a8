"""Say where one recipe departs from another: every key, both values, and where each is from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lsqctl.errors import NotFound, UsageError
from lsqctl.recipe import load_stored
from lsqctl.recipe_file import (
    Cell,
    LoadedRecipe,
    find_parent,
    flat,
    flat_base,
    load,
)
from lsqctl.run import RunDetail
from lsqctl.settings import Settings

_ALWAYS_LEFT_OUT = frozenset({"name", "description"})


@dataclass(frozen=True, slots=True)
class Deviation:
    """One key in which two recipes differ; None where a side has no such key.

    ``*_from`` says where a value stands: ``recipes/x.yaml:12``, ``base paper/w4a4``, ``default``.
    """

    key: str
    mine: Any
    theirs: Any
    mine_from: str
    theirs_from: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One recipe, or one cell of a sweep, beside another; the seeds of a cell are compared once."""

    mine: str
    theirs: str
    deviations: tuple[Deviation, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """The keys of a recipe or of a run, and where each value stands."""

    name: str
    values: Mapping[str, Any]
    origins: Mapping[str, str]
    base: str | None = None  # what it extends
    open: frozenset[str] = field(default_factory=frozenset)
    abstract: bool = False


def diff_recipes(mine: str, theirs: str | None, settings: Settings) -> list[Comparison]:
    """Return where ``mine`` departs from ``theirs``: one comparison for each cell of ``mine``.

    Each is a file, the name of a bundled recipe or of a cell of one, or a run: its id or ``@last``.
    Without ``theirs`` each cell is compared with the recipe it extends. What a base leaves open is
    no deviation, and against a base neither is the seed. Raises NotFound, RecipeError, and
    UsageError where there is nothing to compare with.
    """
    left = _sides(mine, settings)
    if theirs is not None:
        other = _one(theirs, _sides(theirs, settings))
        return [compare(side, other) for side in left]
    bases: dict[str, Side] = {}
    for side in left:
        if side.base is None:
            raise UsageError(
                f"{side.name} extends no recipe: name the one to compare it with, as in "
                f"`lsqctl recipe diff {mine} paper/w4a4`"
            )
        if side.base not in bases:
            bases[side.base] = _one(side.base, _sides(side.base, settings))
    return [compare(side, bases[str(side.base)]) for side in left]


def compare(mine: Side, theirs: Side) -> Comparison:
    """Return where one side departs from the other."""
    left_out = _ALWAYS_LEFT_OUT | mine.open | theirs.open
    if mine.abstract or theirs.abstract:
        left_out |= {"seed"}
    keys = [*mine.values, *(key for key in theirs.values if key not in mine.values)]
    return Comparison(
        mine.name,
        theirs.name,
        tuple(
            Deviation(
                key,
                mine.values.get(key),
                theirs.values.get(key),
                mine.origins.get(key, "") if key in mine.values else "",
                theirs.origins.get(key, "") if key in theirs.values else "",
            )
            for key in keys
            if key not in left_out and mine.values.get(key) != theirs.values.get(key)
        ),
    )


def _one(reference: str, sides: list[Side]) -> Side:
    if len(sides) == 1:
        return sides[0]
    names = ", ".join(side.name for side in sides[:5])
    more = ", …" if len(sides) > 5 else ""
    raise UsageError(f"`{reference}` is {len(sides)} recipes: name one of its cells: {names}{more}")


def _sides(reference: str, settings: Settings) -> list[Side]:
    if reference.startswith("@"):
        return [_run(reference, settings)]
    try:
        loaded = load(reference, abstract_ok=True)
    except NotFound as error:
        return _cell_or_run(reference, settings, error)
    return _sides_of(loaded)


def _sides_of(loaded: LoadedRecipe) -> list[Side]:
    if loaded.abstract:
        values, left = flat_base(loaded)
        return [Side(loaded.name, values, loaded.origins, loaded.base, left, abstract=True)]
    return _cells(loaded, loaded.cells)


def _cell_or_run(reference: str, settings: Settings, unknown: NotFound) -> list[Side]:
    try:
        return _cells(*find_parent(reference))
    except NotFound:
        pass
    try:
        return [_run(reference, settings)]
    except NotFound:
        raise unknown from None


def _cells(loaded: LoadedRecipe, cells: tuple[Cell, ...]) -> list[Side]:
    """Return a side for each name among ``cells``: seeds do not make a recipe another one."""
    once = {cell.recipe.name: cell for cell in reversed(cells)}
    return [
        Side(cell.recipe.name, flat(cell.recipe), cell.origins, cell.base)
        for cell in reversed(once.values())
    ]


def base_side(name: str) -> Side:
    """Return a bundled base recipe.  Raises NotFound."""
    return _one(name, _sides_of(load(name, abstract_ok=True)))


def run_side(detail: RunDetail) -> Side:
    """Return what a run was asked to do."""
    values = flat(load_stored(detail.recipe))
    return Side(detail.run.id, values, dict.fromkeys(values, f"run {detail.run.id}"))


def _run(reference: str, settings: Settings) -> Side:
    from lsqctl.api.workspace import open_workspace

    store = open_workspace(settings)
    try:
        return run_side(store.detail(store.resolve(reference).id))
    finally:
        store.close()
