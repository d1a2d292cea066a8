"""What a command line names: a recipe by its path or name, or what a run was submitted with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lsqctl.errors import NotFound, UsageError
from lsqctl.recipe import load_stored
from lsqctl.recipe_file import NO_CHANGES, Changes, LoadedRecipe, load, load_complete
from lsqctl.services.workspace import open_workspace, workspace_exists
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.run import RunDetail
    from lsqctl.store import Store

T = TypeVar("T")


def load_in_workspace(ref: str, settings: Settings, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Return a recipe, or what a run of the workspace was submitted with; raises as below.

    No database is opened for a recipe.
    """
    try:
        return load_recipe_or_run(ref, None, Changes(sets=overrides))
    except NotFound:
        if not workspace_exists(settings):
            raise
    with open_workspace(settings) as store:
        return load_recipe_or_run(ref, store, Changes(sets=overrides))


def load_recipe_or_run(
    ref: str,
    store: Store | None,
    changes: Changes = NO_CHANGES,
) -> LoadedRecipe:
    """Return a recipe by its path or name, or what a run was submitted with: an id, ``@last``.

    A recipe comes before a run of the same name. Raises NotFound, RecipeError, and PluginError
    where a run names what a plugin declares that is gone.
    """
    if not ref.startswith("@"):
        try:
            return load(ref, changes)
        except NotFound as not_found:
            if store is None:
                raise
            try:
                run_id = store.runs.resolve(ref).id
            except NotFound:
                raise not_found from None
    elif store is None:
        raise NotFound(f"`{ref}` is a run, and there is no workspace here with any")
    else:
        run_id = store.runs.resolve(ref).id
    detail = store.runs.detail(run_id)
    return load_complete(
        load_stored(detail.recipe), f"run {run_id}", submitted_path(detail), changes
    )


def single_recipe(ref: str, named: Mapping[str, T]) -> T:
    """Return what is the only one among recipes by their names.

    Raises UsageError, with the first names, where ``ref`` stands for several: seeds aside.
    """
    if len(named) > 1:
        shown = ", ".join([*named][:5]) + (", …" if len(named) > 5 else "")
        raise UsageError(f"`{ref}` is {len(named)} recipes: name one of its cells: {shown}")
    return next(iter(named.values()))


def submitted_path(detail: RunDetail) -> Path:
    """Return the file that a run was submitted from; paths in its recipe are relative to that."""
    return Path(detail.provenance.get("recipe_path") or Path.cwd() / "run.yaml")
