"""Answer "is A better than B?", where each is a run, a recipe's name or a sweep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from lsqctl.errors import NotFound, did_you_mean
from lsqctl.leaderboard import comparing
from lsqctl.leaderboard.comparison import Comparison, Side
from lsqctl.run import Run, RunState

if TYPE_CHECKING:
    from lsqctl.scored import ScoredRun
    from lsqctl.store import Store


def compare(store: Store, first: str, second: str) -> Comparison:
    """Compare what two references name: an id or its beginning, ``@last``, a name, or a sweep.

    A name stands for all seeds of the newest recipe of that name that has a result. Raises
    NotFound for what is not there or has no result yet, UsageError for sides that were not
    evaluated on the same images.
    """
    sides = _side(store, first), _side(store, second)
    if sides[0].label == sides[1].label:
        sides = replace(sides[0], label=first), replace(sides[1], label=second)
    return comparing.compare(*sides)


def _side(store: Store, reference: str) -> Side:
    if named := store.by_name(reference):
        return _recipe(store, reference, named)
    if reference in (sweeps := store.sweeps()):
        return _sweep(store, reference)
    try:
        run = store.resolve(reference)
    except NotFound as error:
        raise NotFound(f"{error}{_nearest_sweep(str(error), reference, sweeps)}") from None
    if run.state is not RunState.SUCCEEDED:
        raise NotFound(f"run {run.id} ({run.name}) is {run.state}: it has no result to compare")
    return _scored(store, f"{run.name} ({run.id})", [run])


def _nearest_sweep(told: str, reference: str, sweeps: list[str]) -> str:
    return "" if "did you mean" in told else did_you_mean(reference, sweeps)


def _recipe(store: Store, name: str, named: list[Run]) -> Side:
    """Return all seeds of the newest recipe of a name that has a result."""
    done = next((run for run in named if run.state is RunState.SUCCEEDED), None)
    if done is None:
        states = ", ".join(sorted({run.state.value for run in named}))
        raise NotFound(f"no run of {name} has a result yet ({states}); `lsqctl runs ls` shows them")
    others = len({run.recipe_sha256 for run in named} - {done.recipe_sha256})
    notes = (
        (f"{name}: {others} other recipe{'s' * (others > 1)} of this name left out; name its runs",)
        if others
        else ()
    )
    runs = store.by_recipe(done.recipe_sha256)
    return replace(_scored(store, name, runs), notes=notes)


def _sweep(store: Store, name: str) -> Side:
    """Return a sweep's runs; of several recipes each run with what its recipe's name adds."""
    side = _scored(store, name, [one.run for one in store.sweep_cells(name) if one.run])
    if len({run.recipe_sha256 for run in side.runs}) == 1:
        return side
    runs = (replace(run, cell=run.name.removeprefix(f"{name}-")) for run in side.runs)
    return replace(side, runs=tuple(runs))


def _scored(store: Store, label: str, runs: Iterable[Run]) -> Side:
    """Return the results of those runs that have one: of each recipe and seed the newest."""
    runs = list(runs)
    done = store.scored_runs(run.id for run in runs if run.state is RunState.SUCCEEDED)
    newest: dict[tuple[str, int], ScoredRun] = {(one.recipe_sha256, one.seed): one for one in done}
    failed = sum(run.state is RunState.FAILED for run in runs)
    if not newest:
        raise NotFound(f"{label} has no result to compare yet")
    return Side(label, tuple(newest.values()), failed)
