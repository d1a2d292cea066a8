"""Choose runs and sweeps by name, and requeue them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lsqctl.errors import IllegalTransition, NotFound, UsageError
from lsqctl.run import ACTIVE_STATES, EnqueuedRun, Run, RunState
from lsqctl.settings import Settings
from lsqctl.text import did_you_mean

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.store.sweeps import ResumeOptions


SWEEP_SUFFIX = ":sweep"


@dataclass(frozen=True, slots=True)
class NamedRuns:
    """The runs that a name stands for, as what, and whether a sweep has the recipe's name too."""

    kind: Literal["run", "recipe", "sweep"]
    name: str
    runs: Sequence[Run]
    is_sweep_too: bool = False


def resolve_name(store: Store, ref: str) -> NamedRuns:
    """Return the runs of a name that may be one of runs, recipes or sweeps: the first that fits.

    ``@last`` and a full id, a recipe's name (all its runs, newest first), a sweep's, the beginning
    of an id. ``NAME:sweep`` is the sweep, whatever else is called so. Raises NotFound, with the
    nearest name of runs and sweeps, and UsageError for a prefix of several ids.
    """
    if ref.endswith(SWEEP_SUFFIX):
        return _named_sweep(store, str(resolve_sweep(store, ref.removesuffix(SWEEP_SUFFIX))))
    sweeps = store.sweeps.names()
    runs_of_name = store.runs.list(name=ref)
    if ref in sweeps and not runs_of_name:
        return _named_sweep(store, ref)
    try:
        run = store.runs.resolve(ref)
    except NotFound as error:
        said, _, run_name = str(error).removesuffix("`?").partition("; did you mean `")
        names = [*filter(None, [run_name]), *sweeps]
        raise NotFound(said + did_you_mean(ref, names)) from None
    if runs_of_name and run.id != ref.lower():
        return NamedRuns("recipe", ref, runs_of_name, ref in sweeps)
    return NamedRuns("run", run.name, (run,))


def _named_sweep(store: Store, name: str) -> NamedRuns:
    return NamedRuns("sweep", name, [cell.run for cell in store.sweeps.cells(name) if cell.run])


def resolve_sweep(store: Store, name: str | None) -> str | None:
    """Return the sweep of this name; for None the newest, or None where there is none.

    Raises NotFound, with the nearest name, for one that is not there.
    """
    names = store.sweeps.names()
    if name is None:
        return names[-1] if names else None
    if name not in names:
        raise NotFound(f"no sweep `{name}`{did_you_mean(name, names)}")
    return name


def resolve_runs(store: Store, run_refs: Iterable[str]) -> list[Run]:
    """Return the runs that are named, each once.  Raises NotFound."""
    return list({run.id: run for run in map(store.runs.resolve, run_refs)}.values())


def resume_sweep(
    store: Store, settings: Settings, name: str | None, options: ResumeOptions
) -> list[EnqueuedRun]:
    """Requeue the cells of a sweep that failed, were cancelled or were removed: all or none.

    From scratch drops their checkpoints' files. Raises NotFound for an unknown sweep, or a parent
    that was removed and that no sweep can bring back.
    """
    sweep = resolve_sweep(store, name)
    if sweep is None:
        raise NotFound("no sweeps yet; a recipe with a `sweep:` section makes one when submitted")
    return store.sweeps.resume(
        sweep, options, delete_files=lambda run_id: _delete_checkpoints(settings, run_id)
    )


def active_runs(store: Store, run_refs: Sequence[str], sweep: str | None) -> list[Run]:
    """Return the runs to be held, released or given a priority: those named, or a sweep's.

    Of a sweep, cells that have finished are left out; one that is named and has is refused with
    IllegalTransition, before anything is changed. Raises NotFound, and UsageError for a prefix of
    several ids, for neither runs nor a sweep, and for both.
    """
    if bool(run_refs) == (sweep is not None):
        raise UsageError("name runs, or a sweep with --sweep NAME" + (", not both" * bool(sweep)))
    if sweep is not None:
        cells = store.sweeps.cells(str(resolve_sweep(store, sweep)))
        return [cell.run for cell in cells if cell.run and cell.run.state in ACTIVE_STATES]
    runs = resolve_runs(store, run_refs)
    for run in runs:
        if run.state not in ACTIVE_STATES:
            raise IllegalTransition(f"run {run.id} has finished ({run.state}); nothing was changed")
    return runs


def set_gpus(store: Store, *run_ids: str, gpus: int) -> None:
    """Let the next attempts of runs be shared by so many processes: all or none.

    Raises UsageError, as submit does, where so many cannot share one of the runs.
    """
    from lsqctl.recipe import check_ranks, load_stored

    for run_id in run_ids:
        check_ranks(load_stored(store.runs.detail(run_id).recipe), gpus)
    store.runs.set_gpus(*run_ids, gpus=gpus)


def retry_run(
    store: Store, settings: Settings, run_id: str, *, from_scratch: bool = False
) -> RunState:
    """Retry a failed or cancelled run and return its state; from scratch drops its checkpoints.

    Raises IllegalTransition for a run in any other state, before anything is removed.
    """
    return store.runs.retry(
        run_id,
        from_scratch=from_scratch,
        delete_files=lambda run_id: _delete_checkpoints(settings, run_id),
    )


def _delete_checkpoints(settings: Settings, run_id: str) -> None:
    from lsqctl.training.checkpoint_files import (
        checkpoint_dirs,
        remove_checkpoints,
        temporary_dirs,
    )

    run_dir = settings.run_dir(run_id)
    remove_checkpoints([*checkpoint_dirs(run_dir), *temporary_dirs(run_dir)])
