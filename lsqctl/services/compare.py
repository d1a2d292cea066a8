"""Answer "is A better than B?", where each is a run, a recipe's name or a sweep.

A sweep of several recipes against one other is answered cell by cell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lsqctl.errors import NotFound
from lsqctl.events import DEPLOYED
from lsqctl.leaderboard import comparison
from lsqctl.leaderboard.comparison import SIGNIFICANCE_LEVEL, Comparison, ComparisonSide
from lsqctl.run import Run, RunState
from lsqctl.services.run_control import SWEEP_SUFFIX, NamedRuns, resolve_name
from lsqctl.text import join_counts, pluralize

if TYPE_CHECKING:
    from lsqctl.events import PerImageResult
    from lsqctl.store import Store

_SWEEP = SWEEP_SUFFIX.removeprefix(":")


@dataclass(frozen=True, slots=True)
class CellComparisons:
    """The answer for each cell of a sweep against one recipe, which is ``first`` or ``second``."""

    answer: str
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]


def compare(store: Store, first: str, second: str) -> Comparison:
    """Compare what two names stand for: an id or its beginning, ``@last``, a name, or a sweep.

    A name stands for all seeds of the newest recipe of that name that has a result, else for a
    sweep; ``NAME:sweep`` is always a sweep. With ``:deployed`` at its end, what the runs' deployed
    files answered is compared. Raises NotFound for what is not there or has no result yet,
    UsageError for sides that were not evaluated on the same images.
    """
    return comparison.compare(*_resolve_sides(store, first, second))


def compare_cells(store: Store, first: str, second: str) -> Comparison | CellComparisons:
    """Compare as ``compare``, and a sweep of several recipes with one recipe cell by cell."""
    sides = _resolve_sides(store, first, second)
    cells = [_cells_of(side) for side in sides]
    if sorted(len(of_side) > 1 for of_side in cells) != [False, True]:
        return comparison.compare(*sides)
    pairs = [(a, b) for a in cells[0] for b in cells[1] if a.runs != b.runs]
    found = tuple(comparison.compare(a, b) for a, b in pairs)
    n_of_verdicts = Counter(one.verdict for one in found)
    counts = {verdict: n_of_verdicts[verdict] for verdict in ("better", "worse", "undecided")}
    several = 0 if len(cells[0]) > 1 else 1
    return CellComparisons(
        f"{sides[0].label} against {sides[1].label}, cell by cell: {join_counts(counts)}",
        found,
        (
            *_notes_of_cells(store, (first, second)[several], sides[several], cells[several]),
            *dict.fromkeys(note for one in found for note in one.notes),
            f"{pluralize(len(found), 'comparison')}: one in {1 / SIGNIFICANCE_LEVEL:.0f} differs "
            f"by luck alone, unless p is below {SIGNIFICANCE_LEVEL / len(found):.2g} (Bonferroni)",
        ),
    )


def _cells_of(side: ComparisonSide) -> list[ComparisonSide]:
    """Return a side for each cell of a sweep of several recipes, else the side itself."""
    names = sorted({run.name for run in side.runs})
    if len({run.cell for run in side.runs}) == 1:
        return [side]
    suffix = f":{DEPLOYED}" if side.label.endswith(f":{DEPLOYED}") else ""
    return [
        ComparisonSide(
            f"{name}{suffix}",
            tuple(replace(run, cell="") for run in side.runs if run.name == name),
        )
        for name in names
    ]


def _notes_of_cells(
    store: Store, ref: str, side: ComparisonSide, cells: Sequence[ComparisonSide]
) -> Iterator[str]:
    """Say which cells of a sweep were not compared, and what no mean holds."""
    sweep, compared = ref.partition(":")[0], {cell.label.partition(":")[0] for cell in cells}
    names = {cell.run.name for cell in store.sweeps.cells(sweep) if cell.run}
    if missing := sorted(names - compared):
        yield f"without a result yet: {', '.join(missing)}"
    if side.n_failed:
        yield f"{pluralize(side.n_failed, 'failed run')} of {sweep} in no mean"


def _resolve_sides(store: Store, first: str, second: str) -> tuple[ComparisonSide, ComparisonSide]:
    sides = _resolve_side(store, first), _resolve_side(store, second)
    if sides[0].label == sides[1].label:
        sides = replace(sides[0], label=first), replace(sides[1], label=second)
    return sides


def _resolve_side(store: Store, ref: str) -> ComparisonSide:
    name, _, suffix = ref.partition(":")
    if suffix not in ("", _SWEEP, DEPLOYED, f"{_SWEEP}:{DEPLOYED}"):
        raise NotFound(f"{ref}: after `:` only `{DEPLOYED}` or `{_SWEEP}` can stand")
    side = _side(store, f"{name}{SWEEP_SUFFIX}" if suffix.startswith(_SWEEP) else name)
    return _deployed_side(store, side, ref) if suffix.endswith(DEPLOYED) else side


def _deployed_side(store: Store, side: ComparisonSide, ref: str) -> ComparisonSide:
    """Return what the deployed files of a side's runs answered; each must have one."""
    cells = {run.run_id: run.cell for run in side.runs}
    found = store.results.per_image_results(cells, DEPLOYED)
    if missing := sorted(cells.keys() - {run.run_id for run in found}):
        raise NotFound(
            f"{ref}: run {missing[0]} has no deployed file on the board; "
            f"`lsqctl deploy {missing[0]} -o DIR` counts one"
        )
    runs = tuple(replace(run, cell=cells[run.run_id]) for run in found)
    return replace(side, label=f"{side.label}:{DEPLOYED}", runs=runs)


def _side(store: Store, ref: str) -> ComparisonSide:
    named = resolve_name(store, ref)
    if named.kind == "recipe":
        return _recipe_side(store, named)
    if named.kind == "sweep":
        return _sweep_side(store, named)
    (run,) = named.runs
    if run.state is not RunState.SUCCEEDED:
        raise NotFound(f"run {run.id} ({run.name}) is {run.state}: it has no result to compare")
    return _side_of_runs(store, f"{run.name} ({run.id})", [run])


def _recipe_side(store: Store, named: NamedRuns) -> ComparisonSide:
    """Return all seeds of the newest recipe of a name that has a result."""
    name = named.name
    as_sweep = f"; `{name}{SWEEP_SUFFIX}` is the sweep" if named.is_sweep_too else ""
    newest_succeeded = next((run for run in named.runs if run.state is RunState.SUCCEEDED), None)
    if newest_succeeded is None:
        states = ", ".join(sorted({run.state.value for run in named.runs}))
        raise NotFound(
            f"no run of {name} has a result yet ({states}){as_sweep}; `lsqctl runs ls` shows them"
        )
    notes = []
    runs = store.runs.list(recipe_sha256=newest_succeeded.recipe_sha256)
    if n_others := len({run.recipe_sha256 for run in (*runs, *named.runs)}) - 1:
        others = pluralize(n_others, "other recipe")
        notes.append(f"{name}: {others} of this name left out; name its runs")
    if as_sweep and {run.id for run in runs} != set(store.sweeps.run_ids(name)):
        notes.append(f"{name} names a recipe and a sweep of other runs: the recipe's{as_sweep}")
    return replace(_side_of_runs(store, name, runs), notes=tuple(notes))


def _sweep_side(store: Store, sweep: NamedRuns) -> ComparisonSide:
    """Return a sweep's runs; of several recipes each run with what its recipe's name adds."""
    side = _side_of_runs(store, sweep.name, sweep.runs)
    if len({run.recipe_sha256 for run in side.runs}) == 1:
        return side
    runs = (replace(run, cell=run.name.removeprefix(f"{sweep.name}-")) for run in side.runs)
    return replace(side, runs=tuple(runs))


def _side_of_runs(store: Store, label: str, runs: Iterable[Run]) -> ComparisonSide:
    """Return the results of those runs that have one: of each recipe and seed the newest."""
    runs = list(runs)
    results = store.results.per_image_results(
        run.id for run in runs if run.state is RunState.SUCCEEDED
    )
    newest: dict[tuple[str, int], PerImageResult] = {
        (result.recipe_sha256, result.seed): result for result in results
    }
    failed = sum(run.state is RunState.FAILED for run in runs)
    if not newest:
        raise NotFound(f"{label} has no result to compare yet")
    return ComparisonSide(label, tuple(newest.values()), failed)
