"""What a worker would refuse of the runs that wait in the queue, found by its own functions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.errors import LsqctlError
from lsqctl.recipe_file import Cell
from lsqctl.run import Run, RunDetail, RunState
from lsqctl.services.layer_checks import check_quantization
from lsqctl.services.recipe_inputs import (
    DatasetFiles,
    check_networks,
    check_weights_fit,
)
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.recipe import Recipe
    from lsqctl.store import Store


def pending_problems(store: Store, settings: Settings) -> Iterator[tuple[str, list[Run]]]:
    """Yield each reason for which runs that are queued or wait would fail, and those runs.

    Nothing is trained or written. What many runs share is looked at once.
    """
    checker = _Checker(store, settings)
    runs_by_problem: dict[str, list[Run]] = {}
    for run in reversed(store.runs.list(states=(RunState.QUEUED, RunState.WAITING))):
        if problem := checker.problem(store.runs.detail(run.id)):
            runs_by_problem.setdefault(problem, []).append(run)
    yield from runs_by_problem.items()


class _Checker:
    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._datasets: dict[Path, DatasetFiles] = {}
        self._checked: dict[str, str] = {}

    def problem(self, detail: RunDetail) -> str:
        """Return why a worker would refuse the run; nothing where it would not."""
        recipe = {key: value for key, value in detail.recipe.items() if key not in ("name", "seed")}
        provenance = detail.provenance
        submitted = [provenance.get(key) for key in ("inputs", "data", "data_dir")]
        key = repr((recipe, submitted, detail.parents, detail.run.state))
        if key not in self._checked:
            self._checked[key] = self._refusal(detail)
        return self._checked[key]

    def _refusal(self, detail: RunDetail) -> str:
        from lsqctl.recipe import load_stored

        try:
            self._check(detail, load_stored(detail.recipe))
        except LsqctlError as error:
            return str(error)
        except ValueError as error:
            return f"its stored recipe is none of this version ({str(error).splitlines()[0]})"
        return ""

    def _check(self, detail: RunDetail, recipe: Recipe) -> None:
        from lsqctl.worker.inputs import check_data_unchanged, parent_checkpoint, resolve_files

        data_dir = self._settings.data_dir_of(detail.provenance.get("data_dir"))
        datasets = self._datasets.setdefault(data_dir, DatasetFiles(data_dir))
        check_data_unchanged(detail, datasets.identity(recipe.data), data_dir)
        datasets.check_images(recipe.data)
        for key, path in resolve_files(detail, data_dir).items():
            if isinstance(path, Path):
                check_weights_fit(key, path, recipe, datasets.classes(recipe.data))
        if detail.run.state is RunState.QUEUED:  # else its parents have not ended
            for run_id in detail.parents.values():
                parent_checkpoint(self._store, run_id, self._settings.run_dir(run_id))
        check_networks(Cell(recipe))
        check_quantization(recipe)
