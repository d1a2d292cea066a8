"""The weights files that recipes name: found, hashed and held against their networks, once each."""

from __future__ import annotations

from pathlib import Path

from lsqctl.api.references import build_meta_network
from lsqctl.errors import DataError
from lsqctl.recipe import DATASETS, DataSection, Recipe, weight_source


class WeightFiles:
    """Looks beside the recipe, in the current folder and in ``data_dir``."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._digests: dict[Path, str] = {}
        self._checked_uses: list[tuple[Path, str, DataSection]] = []

    def resolve(self, key: str, weights_name: str, recipe: Recipe, recipe_dir: Path) -> dict[str, str]:
        """Return the name, path and sha256 of the file that ``recipe`` names under ``key``.

        Raises DataError when there is none, or it does not fit the network that it is meant for.
        """
        from lsqctl.training.digest import file_sha256

        path = self._find(key, weights_name, recipe, recipe_dir)
        if path not in self._digests:
            self._digests[path] = file_sha256(path)
        use = (path, recipe.network_of(key), recipe.data)
        if use not in self._checked_uses:
            _check_fit(key, path, recipe)
            self._checked_uses.append(use)
        return {"name": weights_name, "path": str(path), "sha256": self._digests[path]}

    def _find(self, key: str, weights_name: str, recipe: Recipe, recipe_dir: Path) -> Path:
        from lsqctl.worker.inputs import find_weights_file

        path = find_weights_file(weights_name, recipe_dir, self._data_dir)
        if path is None:
            hint = weight_source(weights_name)
            raise DataError(
                f"{recipe.name}: {key}: no file {weights_name} beside the recipe, here, or in "
                f"{self._data_dir} (--data-dir or LSQCTL_DATA names another folder)"
                + (f"; {hint}" if hint else "")
            )
        return path


def _check_fit(key: str, path: Path, recipe: Recipe) -> None:
    """Compare names and shapes; where a folder decides the classes, only the worker can."""
    from lsqctl.training.models.weights import matching_state

    if DATASETS[recipe.data.name].classes is not None:
        network = recipe.network_of(key)
        model = build_meta_network(network, recipe)
        matching_state(model, path, model_name=network, key=f"{recipe.name}: {key}")
