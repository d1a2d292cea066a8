"""A search by one of Optuna's samplers: it asks for values, our queue trains them, it is told.

What has been tried stands in the sweep's cells and nowhere else: a search that was cut off goes on
when it is begun again, and learns from every cell that the sweep has.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from math import isfinite
from types import ModuleType
from typing import TYPE_CHECKING

from lsqctl.errors import NotFound, UsageError
from lsqctl.recipe_file import Distribution, LoadedRecipe
from lsqctl.run import ACTIVE_STATES, Run
from lsqctl.services.diff import flatten
from lsqctl.services.loading import load_in_workspace
from lsqctl.services.submit import plan_submit, submit
from lsqctl.services.submit_planner import SubmitOptions
from lsqctl.settings import Settings
from lsqctl.text import did_you_mean

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

    from lsqctl.store import Store

POLL_SECONDS = 1.0
SAMPLERS: Mapping[str, str] = {
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
    "qmc": "QMCSampler",
    "random": "RandomSampler",
}


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How many trials a search has in all, how many at a time, whose advice, and what is best.

    ``metric`` is top1, the larger the better, or loss, of the headline result.
    """

    trials: int
    parallel: int = 1
    sampler: str = "tpe"
    metric: str = "top1"


@dataclass(frozen=True, slots=True)
class TrialResult:
    """One trial: the values that were asked for, its runs, their mean; None where one failed."""

    number: int
    values: Mapping[str, object]
    run_ids: tuple[str, ...]
    mean: float | None


_Tried = dict[str, tuple[Mapping[str, object], list[Run]]]  # by values: these, and their runs


@dataclass(slots=True)
class _Trial:
    asked: optuna.trial.Trial
    values: Mapping[str, object]
    run_ids: tuple[str, ...]


def search(
    recipe_ref: str,
    store: Store,
    settings: Settings,
    options: SearchOptions,
    *,
    on_told: Callable[[TrialResult], None] = lambda _: None,
) -> list[TrialResult]:
    """Submit and await trials until there are as many as wanted; return those that were told here.

    Workers train them. Raises UsageError where the recipe has no `random` in its sweep, where
    Optuna is not installed, and NotFound for an unknown sampler.
    """
    loaded = load_in_workspace(recipe_ref, settings)
    if not loaded.space:
        raise UsageError(
            f"{recipe_ref} has nothing to search: write `sweep: {{random: …, runs: N}}`"
        )
    searching = _Search(recipe_ref, loaded, store, settings, options)
    searching.learn()
    results: list[TrialResult] = []
    while not searching.finished:
        searching.fill()
        for result in searching.collect():
            results.append(result)
            on_told(result)
        if searching.open:
            time.sleep(POLL_SECONDS)
    return results


@dataclass(slots=True)
class _Search:
    recipe_ref: str
    loaded: LoadedRecipe
    store: Store
    settings: Settings
    options: SearchOptions
    study: optuna.Study = field(init=False)
    distributions: dict[str, BaseDistribution] = field(init=False)
    tried: _Tried = field(init=False)
    open: list[_Trial] = field(default_factory=list)
    begun: int = 0

    def __post_init__(self) -> None:
        library = _import_optuna()
        library.logging.set_verbosity(library.logging.WARNING)
        self.tried = _tried(self.store, self.loaded)
        seed = self.loaded.cells[0].recipe.seed + 7919 * len(self.tried)  # or it would ask again
        direction = "maximize" if self.options.metric == "top1" else "minimize"
        sampler = _make_sampler(library, self.options.sampler, seed)
        self.study = library.create_study(direction=direction, sampler=sampler)
        self.distributions = {
            key: _to_optuna(library, found) for key, found in self.loaded.space.items()
        }

    @property
    def finished(self) -> bool:
        """Whether every trial has been told."""
        return self.begun >= self.options.trials and not self.open

    def learn(self) -> None:
        """Take over what the sweep's cells have tried: told where they ended, else awaited."""
        for values, runs in self.tried.values():
            self.begun += 1
            self.study.enqueue_trial(dict(values))
            asked = self.study.ask(self.distributions)
            self.open.append(_Trial(asked, values, tuple(run.id for run in runs)))
        for _ in self.collect():
            pass

    def fill(self) -> None:
        """Ask for values and submit them, until as many are on their way as may be."""
        while len(self.open) < self.options.parallel and self.begun < self.options.trials:
            self.begun += 1
            asked = self.study.ask(self.distributions)
            values = {
                key: value if (space := self.loaded.space[key]).choices else space.rounded(value)
                for key, value in asked.params.items()
            }
            self.open.append(_Trial(asked, values, self._submit(values)))

    def _submit(self, values: Mapping[str, object]) -> tuple[str, ...]:
        grids = tuple(f"{key}={json.dumps(value)}" for key, value in values.items())
        options = SubmitOptions(grids=grids)
        plan = plan_submit(
            [self.recipe_ref], settings=self.settings, store=self.store, options=options
        )
        wanted = {new.run_sha256 for new in plan.runs if new.sweep}
        enqueued = submit(plan, self.store)
        return tuple(item.run.id for item in enqueued if item.run.run_sha256 in wanted)

    def collect(self) -> list[TrialResult]:
        """Tell the sampler of each trial whose runs have all ended."""
        results = []
        for trial in list(self.open):
            runs = [self._run(run_id) for run_id in trial.run_ids]
            if any(run is not None and run.state in ACTIVE_STATES for run in runs):
                continue
            self.open.remove(trial)
            mean = self._mean(runs)
            self._tell(trial, mean)
            results.append(TrialResult(trial.asked.number, trial.values, trial.run_ids, mean))
        return results

    def _run(self, run_id: str) -> Run | None:
        try:
            return self.store.runs.detail(run_id).run
        except NotFound:  # removed meanwhile: a trial without a value
            return None

    def _mean(self, runs: Sequence[Run | None]) -> float | None:
        values = [self._value(run) for run in runs]
        known = [value for value in values if value is not None and isfinite(value)]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    def _value(self, run: Run | None) -> float | None:
        if run is None or not run.ended_well:
            return None
        if self.options.metric == "top1":
            return run.top1
        evaluations = self.store.results.evaluations(run.id)
        return next((one.loss for one in evaluations if one.headline), None)

    def _tell(self, trial: _Trial, mean: float | None) -> None:
        if mean is None:
            failed = _import_optuna().trial.TrialState.FAIL
            self.study.tell(trial.asked, state=failed)
        else:
            self.study.tell(trial.asked, mean)


def _tried(store: Store, loaded: LoadedRecipe) -> dict[str, tuple[Mapping[str, object], list[Run]]]:
    """Return the values that the sweep's cells have, each with its runs (one a seed)."""
    found: _Tried = {}
    if loaded.name not in store.sweeps.names():
        return found
    for cell in store.sweeps.cells(loaded.name):
        if cell.run is None:
            continue
        recipe = store.runs.detail(cell.run.id).recipe
        values = {key: flatten(recipe).get(key) for key in loaded.space}
        if all(loaded.space[key].has(value) for key, value in values.items()):
            found.setdefault(repr(values), (values, []))[1].append(cell.run)
    return found


def _import_optuna() -> ModuleType:
    try:
        return import_module("optuna")
    except ImportError:
        hint = "pip install 'lsqctl[optuna]'"
        raise UsageError(f"a search by a sampler needs Optuna: {hint}") from None


def _make_sampler(library: ModuleType, name: str, seed: int) -> BaseSampler:
    if name not in SAMPLERS:
        raise NotFound(f"no sampler is named `{name}`{did_you_mean(name, SAMPLERS)}")
    sampler: BaseSampler = getattr(library.samplers, SAMPLERS[name])(seed=seed)
    return sampler


def _to_optuna(library: ModuleType, found: Distribution) -> BaseDistribution:
    distributions = library.distributions
    made: BaseDistribution
    if found.choices:
        made = distributions.CategoricalDistribution(found.choices)
    elif found.kind == "integer":
        made = distributions.IntDistribution(int(found.low), int(found.high))
    else:
        log = found.kind == "loguniform"
        made = distributions.FloatDistribution(found.low, found.high, log=log)
    return made
