"""From recipe names to queued runs: load, check, find parents, identify, enqueue in one go.

Nothing is queued unless everything is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lsqctl.errors import Diagnostic, LsqctlError, RecipeError, UsageError
from lsqctl.failpoint import failpoint
from lsqctl.recipe_file import LoadedRecipe
from lsqctl.run import EnqueuedRun, IfExists, NewRun
from lsqctl.services.layer_checks import check_layers
from lsqctl.services.loading import load_recipe_or_run
from lsqctl.services.submit_planner import NO_OPTIONS, Planner, SubmitOptions
from lsqctl.services.workspace import open_workspace, workspace_exists
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.store import Store


@dataclass(frozen=True, slots=True)
class SubmitPlan:
    """What a submission would queue, parents first, what it noticed, and ``notes`` on the runs."""

    runs: tuple[NewRun, ...]
    warnings: tuple[Diagnostic, ...]
    max_failures: int | None = None
    notes: tuple[str, ...] = ()


def plan_submit(
    recipe_refs: Sequence[str],
    *,
    settings: Settings,
    store: Store | None,
    options: SubmitOptions = NO_OPTIONS,
) -> SubmitPlan:
    """Load and check recipes and all that they need; raise before anything is queued.

    ``store`` is None where there is no workspace yet.
    """
    loaded = load_recipes(recipe_refs, options, store)
    return plan_loaded(loaded, settings=settings, store=store, options=options)


def plan_loaded(
    loaded: Sequence[LoadedRecipe],
    *,
    settings: Settings,
    store: Store | None,
    options: SubmitOptions = NO_OPTIONS,
) -> SubmitPlan:
    """Check what recipes need, as ``plan_submit`` does once it has loaded them."""
    if options.max_failures is not None and not any(source.is_sweep for source in loaded):
        raise UsageError("--max-failures and --fail-fast are for a sweep; no recipe here is one")
    planner = Planner(settings, store, options, loaded)
    for recipe in loaded:
        for cell in recipe.cells:
            planner.add(cell, recipe, submitted=True)
    warnings = tuple(dict.fromkeys(text for source in loaded for text in source.warnings))
    return SubmitPlan(
        (*planner.planned.values(), *planner.extra_cells),
        warnings,
        options.max_failures,
        tuple(planner.notes),
    )


def plan_in_workspace(
    recipe_refs: Sequence[str], settings: Settings, options: SubmitOptions
) -> SubmitPlan:
    """Check everything against the workspace, if there is one; make none for a faulty recipe."""
    if not workspace_exists(settings):
        return plan_submit(recipe_refs, settings=settings, store=None, options=options)
    with open_workspace(settings) as store:
        return plan_submit(recipe_refs, settings=settings, store=store, options=options)


def readiness_problem(
    recipe_refs: Sequence[str], settings: Settings, options: SubmitOptions
) -> str:
    """Return what a submission would be refused for though its recipes are right; perhaps nothing.

    A file, a run or a dataset that is not there, or weights that do not fit. Nothing is changed.
    """
    try:
        if not workspace_exists(settings):
            plan_submit(recipe_refs, settings=settings, store=None, options=options)
        else:
            with open_workspace(settings, read_only=True) as store:
                plan_submit(recipe_refs, settings=settings, store=store, options=options)
    except LsqctlError as error:
        return str(error)
    return ""


def submit(plan: SubmitPlan, store: Store, *, if_exists: IfExists = "skip") -> list[EnqueuedRun]:
    """Queue a plan, all of it or nothing; a run that is there already is not doubled."""
    enqueued = store.queue.enqueue(plan.runs, if_exists=if_exists, max_failures=plan.max_failures)
    failpoint("submit.after-commit")
    return enqueued


def load_recipes(
    recipe_refs: Sequence[str], options: SubmitOptions, store: Store | None
) -> list[LoadedRecipe]:
    """Load several recipes and raise the diagnostics of all of them together."""
    if options.name is not None and len(recipe_refs) > 1:
        raise UsageError(f"--name calls one recipe, not {len(recipe_refs)}: submit them one by one")
    loaded: list[LoadedRecipe] = []
    diagnostics: list[Diagnostic] = []
    for recipe_ref in recipe_refs:
        try:
            loaded.append(load_recipe_or_run(recipe_ref, store, options.changes))
        except RecipeError as error:
            diagnostics += error.diagnostics
    diagnostics += check_layers(loaded)
    if diagnostics:
        raise RecipeError(list(dict.fromkeys(diagnostics)))
    return loaded
