"""The weights files that recipes name: found, hashed and held against their networks, once each."""

from __future__ import annotations

from pathlib import Path

from lsqctl.api.references import weightless
from lsqctl.errors import DataError
from lsqctl.recipe import DATASETS, DataSection, Recipe, weight_source


class WeightFiles:
    """Looks beside the recipe, in the current folder and in ``data_dir``."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._digests: dict[Path, str] = {}
        self._fitting: list[tuple[Path, str, DataSection]] = []

    def entry(self, key: str, reference: str, recipe: Recipe, beside: Path) -> dict[str, str]:
        """Return the name, path and sha256 of the file that ``recipe`` names under ``key``.

        Raises DataError when there is none, or it does not fit the network that it is meant for.
        """
        from lsqctl.training.digest import sha256_of

        path = self._found(key, reference, recipe, beside)
        if path not in self._digests:
            self._digests[path] = sha256_of(path)
        use = (path, recipe.network_of(key), recipe.data)
        if use not in self._fitting:
            _check_fit(key, path, recipe)
            self._fitting.append(use)
        return {"name": reference, "path": str(path), "sha256": self._digests[path]}

    def _found(self, key: str, reference: str, recipe: Recipe, beside: Path) -> Path:
        from lsqctl.worker.inputs import find_file

        path = find_file(reference, beside, self._data_dir)
        if path is None:
            told = weight_source(reference)
            raise DataError(
                f"{recipe.name}: {key}: no file {reference} beside the recipe, here, or in "
                f"{self._data_dir} (--data-dir or LSQCTL_DATA names another folder)"
                + (f"; {told}" if told else "")
            )
        return path


def _check_fit(key: str, path: Path, recipe: Recipe) -> None:
    """Compare names and shapes; where a folder decides the classes, only the worker can."""
    from lsqctl.training.models.weights import fitting

    if DATASETS[recipe.data.name].classes is not None:
        network = recipe.network_of(key)
        model = weightless(network, recipe)
        fitting(model, path, model_name=network, key=f"{recipe.name}: {key}")
