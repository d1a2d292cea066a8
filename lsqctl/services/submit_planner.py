"""The runs of one submission: each recipe's inputs found, its parents planned, its hashes made.

A parent that is named (``{run: NAME}``) is found among the recipes of the same call, then among
recipe files, then among the runs in the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.datasets import DATASETS
from lsqctl.errors import LsqctlError, NotFound, UsageError
from lsqctl.recipe import WEIGHT_SUFFIXES, Recipe, RunRef, check_ranks, fingerprint, possible_ranks
from lsqctl.recipe_file import (
    Cell,
    Changes,
    LoadedRecipe,
    Parent,
    bundled_recipes,
    find_parent,
    load,
)
from lsqctl.run import EXTENSION_ROLE, JsonObject, NewRun, Run, RunState, check_tag
from lsqctl.services.extension import extended_run
from lsqctl.services.provenance import collect_provenance, plugin_provenance
from lsqctl.services.recipe_inputs import (
    TORCHVISION_CLASSES,
    DatasetFiles,
    WeightFiles,
    check_networks,
    check_parent,
    choose_parent_seed,
    located,
    new_head_note,
    resolve_torchvision_weights,
)
from lsqctl.settings import Settings, current_user
from lsqctl.text import did_you_mean, three_closest_names

if TYPE_CHECKING:
    from lsqctl.store import Store

MAX_PARENT_CHAIN = 100  # recipes; each takes some of Python's stack
_Inputs = tuple[dict[str, str], dict[str, dict[str, str]], dict[str, str]]
_REUSABLE_STATES = frozenset(RunState) - {RunState.FAILED, RunState.CANCELLED}


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """How recipes are taken: overrides, seeds, whether data must be there, what runs may use.

    ``held`` keeps what is queued from being started; ``max_failures`` failed cells stop a sweep
    (0 lifts an earlier limit, None leaves it). ``grids`` make a sweep of each recipe; ``tags`` are
    given to the runs that are named, parents not among them. ``gpus`` processes share each run.
    ``name`` is what one recipe is called, with what ``overrides`` say or not.
    """

    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    check_data: bool = True
    priority: int = 0
    held: bool = False
    max_failures: int | None = None
    gpus: int = 1
    time_limit_seconds: float | None = None
    grids: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    name: str | None = None

    def __post_init__(self) -> None:
        for tag in self.tags:
            check_tag(tag)

    @property
    def changes(self) -> Changes:
        """What is made of each recipe before it is checked."""
        return Changes(self.overrides, self.seeds, self.grids, self.name)


NO_OPTIONS = SubmitOptions()


def halving_plan(source: LoadedRecipe) -> JsonObject:
    """Return what a run of a sweep keeps of how that is halved; nothing where it is not."""
    if source.halving is None:
        return {}
    return {"halving": {"sweep": source.name, **asdict(source.halving)}}


@dataclass(slots=True)
class Planner:
    """Gathers the runs of one submission: what was named, and before each what it waits for."""

    settings: Settings
    store: Store | None
    options: SubmitOptions
    loaded: Sequence[LoadedRecipe]
    planned: dict[str, NewRun] = field(default_factory=dict)  # by run_sha256, parents first
    # planned already, as a cell of another sweep
    extra_cells: list[NewRun] = field(default_factory=list)
    _chain: list[str] = field(default_factory=list)
    _provenance: JsonObject = field(default_factory=dict)
    _resolved: dict[tuple[Path, str], _Inputs] = field(default_factory=dict)
    _datasets: DatasetFiles = field(init=False)
    _files: WeightFiles = field(init=False)
    _head_notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._datasets = DatasetFiles(self.settings.data_dir)
        self._files = WeightFiles(self.settings.data_dir, self._datasets)

    @property
    def notes(self) -> list[str]:
        """What is to be said of the runs, each once: classifiers that will be replaced."""
        return [note for note in dict.fromkeys((*self._files.notes, *self._head_notes)) if note]

    def add(self, cell: Cell, source: LoadedRecipe, *, submitted: bool = False) -> NewRun:
        """Plan one run and, before it, its parents."""
        recipe = cell.recipe
        if self.options.check_data:
            check_networks(cell)
        identities, entries, parents = self._resolve_inputs(cell, source)
        if self.options.check_data:
            self._check_data(cell)
        new = NewRun(
            name=recipe.name,
            recipe=recipe.model_dump(mode="json"),
            recipe_sha256=fingerprint(recipe, identities, with_seed=False),
            run_sha256=fingerprint(recipe, identities, with_seed=True),
            seed=recipe.seed,
            provenance=self._collect_provenance(source, recipe)
            | {"inputs": entries}
            | (halving_plan(source) if submitted else {}),
            parents=parents,
            priority=self.options.priority,
            epochs=recipe.train.epochs,
            sweep=source.name if submitted and source.is_sweep else None,
            cell=cell.label,
            held=self.options.held,
            explicit=submitted,
            tags=self.options.tags if submitted else (),
            user=current_user(),
            partial=recipe.data.partial,
            gpus=self._ranks(recipe, submitted=submitted),
            time_limit_seconds=self.options.time_limit_seconds,
        )
        planned = self.planned.get(new.run_sha256)
        supersedes = planned is not None and (new.explicit, bool(new.sweep)) > (
            planned.explicit,
            bool(planned.sweep),
        )
        if planned is None or supersedes:
            self.planned[new.run_sha256] = new
        elif new.sweep not in {None, planned.sweep}:
            self.extra_cells.append(new)
        return new

    def _ranks(self, recipe: Recipe, *, submitted: bool) -> int:
        """Return how many processes share the run; a parent that was not named takes fewer."""
        if submitted:
            check_ranks(recipe, self.options.gpus)
            return self.options.gpus
        return possible_ranks(recipe, self.options.gpus)[-1]

    def _resolve_inputs(self, cell: Cell, source: LoadedRecipe) -> _Inputs:
        """Return identities for the hash, entries for the provenance, parents by run_sha256.

        Of each recipe once: a chain of parents is asked for twice a level, for hash and for run.
        """
        recipe = cell.recipe
        if recipe.name in self._chain:
            chain = " -> ".join((*self._chain, recipe.name))
            raise UsageError(f"recipes wait for each other: {chain}")
        if len(self._chain) >= MAX_PARENT_CHAIN:
            raise UsageError(
                f"`{self._chain[0]}` waits for a chain of more than {MAX_PARENT_CHAIN} recipes; "
                f"submit `{recipe.name}` and those it waits for first"
            )
        key = source.path, recipe.model_dump_json()
        if key not in self._resolved:
            self._chain.append(recipe.name)
            self._resolved[key] = self._resolve_new_inputs(cell, source)
            self._chain.pop()
        return self._resolved[key]

    def _resolve_new_inputs(self, cell: Cell, source: LoadedRecipe) -> _Inputs:
        recipe, identities, entries, parents = cell.recipe, {}, {}, {}
        if self.options.check_data and DATASETS[recipe.data.name].is_image_folder:
            with located(cell, "data.path"):
                images = self._datasets.identity(recipe.data)
            identities["data.name"] = f"{recipe.data.name}@{images}"  # others are another run
        for key, input_ref in recipe.input_refs().items():
            if key == EXTENSION_ROLE:
                with located(cell, key):
                    extended = extended_run(self.store, self.settings, recipe)
                identities[key] = f"run:{extended.recipe_sha256}"
                parents[key] = extended.run_sha256
            elif isinstance(input_ref, RunRef):
                recipe_sha256, run_sha256 = self._resolve_parent(key, input_ref.run, cell, source)
                identities[key] = f"run:{recipe_sha256}"
                self._head_notes.append(new_head_note(key, None, recipe))
                parents[key] = run_sha256
            elif input_ref.endswith(WEIGHT_SUFFIXES) or "/" in input_ref:
                with located(cell, key):
                    entries[key] = self._files.resolve(key, input_ref, recipe, source.path.parent)
                if self._datasets.classes(recipe.data) is None:
                    self._head_notes.append(new_head_note(key, None, recipe))
                identities[key] = f"file:{entries[key]['sha256']}"
            else:
                with located(cell, key):
                    weights = resolve_torchvision_weights(key, input_ref, recipe)
                entries[key] = {"torchvision": weights}
                self._head_notes.append(new_head_note(key, TORCHVISION_CLASSES, recipe))
                identities[key] = f"torchvision:{input_ref}"
        return identities, entries, parents

    def _resolve_parent(
        self, key: str, name: str, child: Cell, source: LoadedRecipe
    ) -> tuple[str, str]:
        """Return (recipe_sha256, run_sha256) of the run that ``child`` waits for."""
        in_submission = self._find_in_submission(name)
        try:
            loaded, cells = in_submission or find_parent(name, source.path)
        except NotFound:
            with located(child, key):
                return self._resolve_stored_parent(key, name, child.recipe, source)
        parent_recipe = cells[0].recipe
        with located(child, key):
            check_parent(key, name, parent_recipe.model.name, parent_recipe.data.name, child.recipe)
        recipe_sha256 = self._recipe_sha256(cells[0], loaded)
        stored = [] if in_submission else self._reusable_runs(recipe_sha256)
        seeds = {run.seed for run in stored} or {cell.recipe.seed for cell in cells}
        with located(child, key):
            seed = choose_parent_seed(name, seeds, child.recipe.seed)
        for run in stored:
            if run.seed == seed:
                return recipe_sha256, run.run_sha256
        cell = next(candidate for candidate in cells if candidate.recipe.seed == seed)
        return recipe_sha256, self.add(cell, loaded).run_sha256

    def _find_in_submission(self, name: str) -> Parent | None:
        """Return the recipe of this very call that ``name`` means, overrides included."""
        for loaded in self.loaded:
            cells = [cell for cell in loaded.cells if cell.recipe.name == name]
            if cells or (loaded.name == name and not loaded.is_sweep):
                return Parent(loaded, tuple(cells) or loaded.cells)
        return None

    def _recipe_sha256(self, cell: Cell, source: LoadedRecipe) -> str:
        identities, _, _ = self._resolve_inputs(cell, source)
        return fingerprint(cell.recipe, identities, with_seed=False)

    def _reusable_runs(self, recipe_sha256: str) -> list[Run]:
        runs = self.store.runs.list(recipe_sha256=recipe_sha256) if self.store else []
        return [run for run in runs if run.state in _REUSABLE_STATES]

    def _resolve_stored_parent(
        self, key: str, name: str, child: Recipe, source: LoadedRecipe
    ) -> tuple[str, str]:
        """Find a parent that is only known by its runs, e.g. one from a recipe since deleted."""
        runs_of_name = self.store.runs.list(name=name) if self.store else []
        runs = [run for run in runs_of_name if run.state in _REUSABLE_STATES]
        hashes = {run.recipe_sha256 for run in runs}
        if not runs or self.store is None:
            raise self._unknown_parent(name, source.path)
        if len(hashes) > 1:
            raise UsageError(f"{{run: {name}}}: {len(hashes)} different recipes ran by this name")
        seed = choose_parent_seed(name, {run.seed for run in runs}, child.seed)
        run = next(run for run in runs if run.seed == seed)
        parent_recipe = self.store.runs.detail(run.id).recipe
        check_parent(
            key, name, parent_recipe["model"]["name"], parent_recipe["data"]["name"], child
        )
        return run.recipe_sha256, run.run_sha256

    def _unknown_parent(self, name: str, near: Path) -> NotFound:
        said = f"{{run: {name}}}: no recipe and no run has this name"
        names = {*bundled_recipes(), *_names_beside(name, near)}
        names |= {cell.recipe.name for loaded in self.loaded for cell in loaded.cells}
        names -= {*self._chain}
        if self.store is not None:
            with suppress(LsqctlError):
                return NotFound(f"{said}, but an id: write `{self.store.runs.resolve(name).name}`")
            names |= {run.name for run in self.store.runs.list()}
        return NotFound(f"{said}{did_you_mean(name, names)}")

    def _check_data(self, cell: Cell) -> None:
        with located(cell, "data.path"):
            self._datasets.identity(cell.recipe.data)
            self._datasets.check_images(cell.recipe.data)

    def _collect_provenance(self, source: LoadedRecipe, recipe: Recipe) -> JsonObject:
        """Return what is true at submit; of the code, asked once a submission."""
        if not self._provenance:
            self._provenance = collect_provenance(Path.cwd())
        data = self._datasets.identity(recipe.data) if self.options.check_data else ""
        return self._provenance | {
            "data_dir": str(self.settings.data_dir),
            "recipe_path": str(source.path),
            "overrides": list(self.options.overrides),
            **({"data": data} if data else {}),  # what a worker will compare them with
            **({"plugins": plugins} if (plugins := plugin_provenance(recipe)) else {}),
        }


def _names_beside(name: str, near: Path) -> Iterator[str]:
    """Yield the recipes beside a file that a parent may be, of the files called most like it."""
    files = {path.stem: path for path in near.parent.glob("*.yaml")}
    for stem in three_closest_names(name.rpartition("/")[2], files):
        with suppress(LsqctlError):  # a recipe with errors, or a base, is none that can be run
            for cell in load(files[stem]).cells:
                if cell.recipe.name.rpartition("/")[2].startswith(stem):
                    yield cell.recipe.name
