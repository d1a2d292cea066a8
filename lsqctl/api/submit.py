"""From recipe names to queued runs: load, check, find parents, identify, enqueue in one go.

Nothing is queued unless everything is right.  A parent that is named (``{run: NAME}``) is found
among the recipes of the same call, then among recipe files, then among the runs in the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsqctl.api.layers import check_layers
from lsqctl.api.provenance import snapshot
from lsqctl.api.references import check_networks, check_parent, checked_weights, pick_seed
from lsqctl.api.weight_files import WeightFiles
from lsqctl.errors import Fault, NotFound, RecipeError, UsageError
from lsqctl.failpoint import failpoint
from lsqctl.recipe import Recipe, RunRef, fingerprint
from lsqctl.recipe_file import Cell, LoadedRecipe, Parent, find_parent, load
from lsqctl.run import Enqueued, IfExists, NewRun, Run, RunState
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.store import Store

_WEIGHT_ENDINGS = (".safetensors", ".pth", ".pt", ".th")
_USABLE = frozenset(RunState) - {RunState.FAILED, RunState.CANCELLED}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a submission would queue, parents first, and what it noticed."""

    runs: tuple[NewRun, ...]
    warnings: tuple[Fault, ...]
    max_failures: int | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """How recipes are taken: overrides, seeds, whether data must be there, what runs may use.

    ``held`` keeps what is queued from being started; ``max_failures`` failed cells stop a sweep
    (0 lifts an earlier limit, None leaves it).
    """

    sets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    check_data: bool = True
    priority: int = 0
    held: bool = False
    max_failures: int | None = None
    gpus: int = 1
    time_limit_seconds: float | None = None


def plan(
    references: Sequence[str],
    *,
    settings: Settings,
    store: Store | None,
    options: Options = Options(),
) -> Plan:
    """Load and check recipes and all that they need; raise before anything is queued.

    ``store`` is None where there is no workspace yet.
    """
    loaded = load_all(references, options)
    if options.max_failures is not None and not any(one.is_sweep for one in loaded):
        raise UsageError("--max-failures and --fail-fast are for a sweep; no recipe here is one")
    planner = _Planner(settings, store, options, loaded)
    for recipe in loaded:
        for cell in recipe.cells:
            planner.add(cell, recipe, submitted=True)
    warnings = tuple(dict.fromkeys(text for one in loaded for text in one.warnings))
    return Plan((*planner.planned.values(), *planner.also), warnings, options.max_failures)


def submit(plan: Plan, store: Store, *, if_exists: IfExists = "skip") -> list[Enqueued]:
    """Queue a plan, all of it or nothing; a run that is there already is not doubled."""
    enqueued = store.enqueue(plan.runs, if_exists=if_exists, max_failures=plan.max_failures)
    failpoint("submit.after-commit")
    return enqueued


def load_all(references: Sequence[str], options: Options) -> list[LoadedRecipe]:
    """Load several recipes and raise the faults of all of them together."""
    loaded: list[LoadedRecipe] = []
    faults: list[Fault] = []
    for reference in references:
        try:
            loaded.append(load(reference, sets=options.sets, seeds=options.seeds))
        except RecipeError as error:
            faults += error.faults
    faults += check_layers(loaded)
    if faults:
        raise RecipeError(list(dict.fromkeys(faults)))
    return loaded


@dataclass(slots=True)
class _Planner:
    settings: Settings
    store: Store | None
    options: Options
    loaded: Sequence[LoadedRecipe]
    planned: dict[str, NewRun] = field(default_factory=dict)  # by run_sha256, parents first
    also: list[NewRun] = field(default_factory=list)  # planned already, as a cell of another sweep
    _chain: list[str] = field(default_factory=list)
    _now: dict[str, Any] = field(default_factory=dict)
    _files: WeightFiles = field(init=False)

    def __post_init__(self) -> None:
        self._files = WeightFiles(self.settings.data_dir)

    def add(self, cell: Cell, source: LoadedRecipe, *, submitted: bool = False) -> NewRun:
        """Plan one run and, before it, its parents."""
        recipe = cell.recipe
        identities, entries, parents = self._inputs(recipe, source)
        if self.options.check_data:
            self._check_data(recipe)
        new = NewRun(
            name=recipe.name,
            recipe=recipe.model_dump(mode="json"),
            recipe_sha256=fingerprint(recipe, identities, with_seed=False),
            run_sha256=fingerprint(recipe, identities, with_seed=True),
            seed=recipe.seed,
            snapshot=self._snapshot(source) | {"inputs": entries},
            parents=parents,
            priority=self.options.priority,
            epochs=recipe.train.epochs,
            sweep=source.name if submitted and source.is_sweep else None,
            cell=cell.label,
            held=self.options.held,
            asked=submitted,
            gpus=self.options.gpus,
            time_limit_seconds=self.options.time_limit_seconds,
        )
        known = self.planned.get(new.run_sha256)
        more = known is not None and (new.asked, bool(new.sweep)) > (known.asked, bool(known.sweep))
        if known is None or more:
            self.planned[new.run_sha256] = new
        elif new.sweep not in {None, known.sweep}:
            self.also.append(new)
        return new

    def _inputs(
        self, recipe: Recipe, source: LoadedRecipe
    ) -> tuple[dict[str, str], dict[str, dict[str, str]], dict[str, str]]:
        """Return identities for the hash, entries for the snapshot, parents by run_sha256."""
        if recipe.name in self._chain:
            chain = " -> ".join((*self._chain, recipe.name))
            raise UsageError(f"recipes wait for each other: {chain}")
        self._chain.append(recipe.name)
        identities, entries, parents = {}, {}, {}
        for key, reference in recipe.references().items():
            if isinstance(reference, RunRef):
                recipe_sha256, run_sha256 = self._parent(key, reference.run, recipe, source)
                identities[key] = f"run:{recipe_sha256}"
                parents[key] = run_sha256
            elif reference.endswith(_WEIGHT_ENDINGS) or "/" in reference:
                entries[key] = self._files.entry(key, reference, recipe, source.path.parent)
                identities[key] = f"file:{entries[key]['sha256']}"
            else:
                entries[key] = {"torchvision": checked_weights(key, reference, recipe)}
                identities[key] = f"torchvision:{reference}"
        self._chain.pop()
        return identities, entries, parents

    def _parent(self, key: str, name: str, child: Recipe, source: LoadedRecipe) -> tuple[str, str]:
        """Return (recipe_sha256, run_sha256) of the run that ``child`` waits for."""
        here = self._given(name)
        try:
            loaded, cells = here or find_parent(name, source.path)
        except NotFound:
            return self._stored_parent(key, name, child)
        its = cells[0].recipe
        check_parent(key, name, its.model.name, its.data.name, child)
        recipe_sha256 = self._identify(cells[0], loaded)
        stored = [] if here else self._stored(recipe_sha256)
        seeds = {run.seed for run in stored} or {cell.recipe.seed for cell in cells}
        seed = pick_seed(name, seeds, child.seed)
        for run in stored:
            if run.seed == seed:
                return recipe_sha256, run.run_sha256
        cell = next(one for one in cells if one.recipe.seed == seed)
        return recipe_sha256, self.add(cell, loaded).run_sha256

    def _given(self, name: str) -> Parent | None:
        """Return the recipe of this very call that ``name`` means, overrides included."""
        for loaded in self.loaded:
            cells = [cell for cell in loaded.cells if cell.recipe.name == name]
            if cells or (loaded.name == name and not loaded.is_sweep):
                return Parent(loaded, tuple(cells) or loaded.cells)
        return None

    def _identify(self, cell: Cell, source: LoadedRecipe) -> str:
        identities, _, _ = self._inputs(cell.recipe, source)
        return fingerprint(cell.recipe, identities, with_seed=False)

    def _stored(self, recipe_sha256: str) -> list[Run]:
        runs = self.store.by_recipe(recipe_sha256) if self.store else []
        return [run for run in runs if run.state in _USABLE]

    def _stored_parent(self, key: str, name: str, child: Recipe) -> tuple[str, str]:
        """Find a parent that is only known by its runs, e.g. one from a recipe since deleted."""
        named = self.store.by_name(name) if self.store else []
        runs = [run for run in named if run.state in _USABLE]
        hashes = {run.recipe_sha256 for run in runs}
        if not runs or self.store is None:
            raise NotFound(f"{{run: {name}}}: no recipe and no run has this name")
        if len(hashes) > 1:
            raise UsageError(f"{{run: {name}}}: {len(hashes)} different recipes ran by this name")
        seed = pick_seed(name, {run.seed for run in runs}, child.seed)
        run = next(run for run in runs if run.seed == seed)
        its = self.store.detail(run.id).recipe
        check_parent(key, name, its["model"]["name"], its["data"]["name"], child)
        return run.recipe_sha256, run.run_sha256

    def _check_data(self, recipe: Recipe) -> None:
        from lsqctl.training.locate import check_present

        check_present(recipe.data.name, self.settings.data_dir)
        check_networks(recipe)

    def _snapshot(self, source: LoadedRecipe) -> dict[str, Any]:
        """Return what is true at submit; of the code, asked once a submission."""
        if not self._now:
            self._now = snapshot(Path.cwd())
        return self._now | {
            "data_dir": str(self.settings.data_dir),
            "recipe_path": str(source.path),
            "overrides": list(self.options.sets),
        }
