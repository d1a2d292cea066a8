"""Go on from a finished run: a new recipe whose first epochs are those of an old run.

What the new run begins with, the old one's last checkpoint, is checked when it is submitted and
again by its worker.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from lsqctl.errors import DataError, IllegalTransition, NotFound, UsageError
from lsqctl.recipe import MAX_NAME_PART, ExtensionSection, Recipe, load_stored
from lsqctl.recipe_file import LoadedRecipe, load_complete
from lsqctl.recipe_file.serialization import flatten_recipe
from lsqctl.run import EXTENSION_ROLE, Run, RunState
from lsqctl.services.loading import submitted_path
from lsqctl.settings import Settings
from lsqctl.training.checkpoint_files import manifest_sha256, read_manifest, read_verified

if TYPE_CHECKING:
    from lsqctl.store import Store

Schedule = Literal["restart", "constant"]
# What may differ between a run and the one that it extends; what else does is another training.
CHANGEABLE_KEYS = (
    *("name", "description", "extension", EXTENSION_ROLE, "model.weights", "model.weights.run"),
    *("model.head", "train.epochs", "train.lr", "train.schedule", "train.warmup_epochs"),
)


def extended_recipe(
    store: Store,
    settings: Settings,
    run_ref: str,
    epochs: int,
    *,
    schedule: Schedule = "restart",
    lr: float | None = None,
    name: str | None = None,
) -> LoadedRecipe:
    """Return the recipe that trains a finished run for ``epochs`` more.

    ``restart`` begins its schedule anew, warm-up included, ``constant`` keeps ``lr``; that is its
    ``train.lr`` unless given. Raises UsageError and DataError for a run that cannot be extended,
    RecipeError for a name or a number that no recipe may have.
    """
    run = store.runs.resolve(run_ref)
    detail = store.runs.detail(run.id)
    recipe = load_stored(detail.recipe)
    reached = check_extendable(store, settings, run)
    total = reached + epochs
    changes: dict[str, object] = {"epochs": total, "lr": recipe.train.lr if lr is None else lr}
    if schedule == "constant":
        changes |= {"schedule": "constant", "warmup_epochs": 0.0}
    longer = recipe.model_copy(  # which checks nothing; as it is loaded, it is checked
        update={
            "name": _extended_name(run.name, reached, total) if name is None else name,
            "train": recipe.train.model_copy(update=changes),
            "extension": ExtensionSection(run=run.id),
        }
    )
    return load_complete(longer, f"run {run.id}", submitted_path(detail))


def _extended_name(name: str, reached: int, total: int) -> str:
    """Return ``…-e30`` for 30 epochs in all; what an earlier extension added is replaced.

    >>> _extended_name("mine/net", 10, 30), _extended_name("mine/net-e10", 10, 30)
    ('mine/net-e30', 'mine/net-e30')
    """
    suffix = f"-e{total}"
    parts = re.sub(f"-e{reached}$", "", name).split("/")
    parts[-1] = parts[-1][: MAX_NAME_PART - len(suffix)] + suffix
    return "/".join(parts)


def check_extendable(store: Store, settings: Settings, run: Run) -> int:
    """Return the epoch that a finished run has reached, once its last checkpoint verifies.

    Raises IllegalTransition for a run that has not succeeded, UsageError for one that was run
    again since, and DataError where the checkpoint is gone or damaged.
    """
    if run.state is not RunState.SUCCEEDED:
        advice = f"; `lsqctl runs retry {run.id}` goes on with it" if run.finished_at else ""
        raise IllegalTransition(
            f"run {run.id} ({run.name}) is {run.state}: only a run that succeeded is extended"
            + advice
        )
    same = store.runs.list(recipe_sha256=run.recipe_sha256, states=[RunState.SUCCEEDED])
    newest = next(other for other in same if other.run_sha256 == run.run_sha256)
    if newest.id != run.id:
        raise UsageError(f"run {run.id} was run again as {newest.id}; extend that one")
    return _verified_epoch(store, settings, run)


def _verified_epoch(store: Store, settings: Settings, run: Run) -> int:
    from lsqctl.worker.inputs import current_location, parent_checkpoint

    stored = max(store.checkpoints.list(run.id), key=lambda row: row.step, default=None)
    if stored is not None:
        stored_at = current_location(settings.run_dir(run.id), stored.directory)
    if stored is None or not stored_at.is_dir():
        host = store.runs.detail(run.id).host_of() or "another machine"
        raise DataError(
            f"run {run.id} ({run.name}) cannot be extended: its last checkpoint is gone, or not on "
            f"this machine: it ran on {host}; submit it again with --if-exists rerun"
        )
    folder = parent_checkpoint(store, run.id, settings.run_dir(run.id), last=True)
    manifest = read_manifest(folder)
    for file_name in manifest["files"]:
        read_verified(folder, manifest, file_name)
    if manifest_sha256(folder) != stored.sha256:
        raise DataError(f"{folder} is another checkpoint than run {run.id} recorded")
    return stored.epoch


def extended_run(store: Store | None, settings: Settings, recipe: Recipe) -> Run:
    """Return the finished run that a recipe's ``extension`` names, once it is checked to fit.

    Raises NotFound, and as ``check_extendable`` and ``_check_extends``.
    """
    if store is None or recipe.extension is None:
        raise NotFound(f"{recipe.name}: extension.run: there is no workspace with runs here")
    run = store.runs.resolve(recipe.extension.run)
    reached = check_extendable(store, settings, run)
    _check_extends(recipe, run, load_stored(store.runs.detail(run.id).recipe), reached)
    return run


def _check_extends(recipe: Recipe, run: Run, stored: Recipe, reached: int) -> None:
    """Raise UsageError where a recipe trains otherwise than the run that it extends."""
    before, after = flatten_recipe(stored), flatten_recipe(recipe)
    keys = sorted({*before, *after} - {*CHANGEABLE_KEYS})
    differing = [key for key in keys if before.get(key) != after.get(key)]
    if differing:
        key = differing[0]
        raise UsageError(
            f"{recipe.name}: extension.run: {key} is {after.get(key)}, and {before.get(key)} in "
            f"run {run.id}; only train.epochs, lr, schedule and warmup_epochs may differ"
        )
    if recipe.train.epochs <= reached:
        raise UsageError(
            f"{recipe.name}: train.epochs counts all epochs, and run {run.id} has trained "
            f"{reached} already; got {recipe.train.epochs}"
        )
