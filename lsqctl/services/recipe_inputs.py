"""Recipe inputs and networks before anything is queued: found, checked, downloaded, tried."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.datasets import ANY_CLASSES, DATASETS
from lsqctl.discovery import is_plugin_name
from lsqctl.errors import DataError, LsqctlError, NotFound, PluginError, UsageError
from lsqctl.models import MODELS, TIMM_PREFIX, input_channels
from lsqctl.recipe import WEIGHT_SUFFIXES, DataSection, Recipe
from lsqctl.recipe_file import Cell, LoadedRecipe
from lsqctl.settings import Settings
from lsqctl.text import sanitize

if TYPE_CHECKING:
    from torch import nn


TORCHVISION_CLASSES = 1000  # of every classifier's weights
# Where the weights files that the bundled recipes name come from, by their folder.
_WEIGHTS_HINTS: Mapping[str, str] = {
    "cifar-resnet/": "it is published on GitHub in akamaster/pytorch_resnet_cifar10 (BSD-2) under "
    "pretrained_models; the recipes cifar10/…-scratch need no file",
    "timm/": "timm has it: save timm.create_model(NAME, pretrained=True).state_dict() there with "
    "safetensors.torch.save_file",
}


@contextmanager
def located(cell: Cell, key: str) -> Iterator[None]:
    """Say with an error where the recipe has the key that it begins with, or else ``key``."""
    try:
        yield
    except (DataError, NotFound, PluginError, UsageError) as error:
        keys = str(error).partition(":")[0], key, "data.name"
        if node := next((cell.nodes[one] for one in keys if one in cell.nodes), None):
            error.args = (f"{sanitize(node.where)}: {error}",)
        raise


def choose_parent_seed(name: str, seeds: set[int], child_seed: int) -> int:
    """Return the child's own seed if the parent has it, else the parent's only one."""
    if child_seed in seeds:
        return child_seed
    if len(seeds) == 1:
        return next(iter(seeds))
    listed = ", ".join(map(str, sorted(seeds)))
    raise UsageError(
        f"{{run: {name}}}: it has seeds {listed}, none of them {child_seed}; submit it with "
        f"--seed {child_seed}"
    )


def resolve_torchvision_weights(key: str, weights_name: str, recipe: Recipe) -> str:
    """Return a torchvision weights name that exists for the recipe's model."""
    from lsqctl.training.weights import check_torchvision_weights

    model = recipe.network_of(key)
    if model.startswith(TIMM_PREFIX):
        raise DataError(
            f"{recipe.name}: {key}: `{weights_name}` is no file; the weights of {model} are a file "
            f"({', '.join(WEIGHT_SUFFIXES)})"
        )
    check_torchvision_weights(weights_name, model)
    check_classes(key, weights_name, TORCHVISION_CLASSES, recipe)
    return weights_name


def check_classes(key: str, input_name: str, classes: int | None, recipe: Recipe) -> None:
    """Raise UsageError when weights are known to be of another number of classes than the data.

    Not where ``model.head: new`` has their classifier replaced.
    """
    data_classes = DATASETS[recipe.data.name].classes
    if replaces_head(key, recipe):
        return
    if data_classes and classes and data_classes != classes:
        hint = "; `model.head: new` replaces the classifier" if key == "model.weights" else ""
        raise UsageError(
            f"{recipe.name}: {key}: `{input_name}` was trained for {classes:,} classes, and "
            f"{recipe.data.name} has {data_classes:,}{hint}"
        )


def replaces_head(key: str, recipe: Recipe) -> bool:
    """Return whether the classifier of the weights under a recipe's key may be replaced."""
    return key == "model.weights" and recipe.model.head == "new"


def check_parent(key: str, name: str, model: str, dataset: str, recipe: Recipe) -> None:
    """Raise UsageError when the parent, by its ``model`` and ``dataset``, cannot be this input.

    Networks of two names are compared by their tensors, without memory for them.
    """
    check_classes(key, name, DATASETS[dataset].classes, recipe)
    network = recipe.network_of(key)
    if model != network and _state_shapes(model, recipe) != _state_shapes(network, recipe):
        hint = f"; add `distill.teacher_model: {model}`" if key == "distill.teacher" else ""
        raise UsageError(
            f"{recipe.name}: {key}: the run `{name}` is a {model}, wanted is a {network}{hint}"
        )


def _state_shapes(network: str, recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a network's state, as for the recipe's data."""
    state = build_meta_network(network, recipe).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


def build_meta_network(network: str, recipe: Recipe, num_classes: int | None = None) -> nn.Module:
    """Return a network without memory for its weights, as for the recipe's data."""
    from lsqctl.models.factory import build_on_meta

    dataset_info = DATASETS[recipe.data.name]
    return build_on_meta(
        network,
        num_classes=num_classes or dataset_info.classes or TORCHVISION_CLASSES,
        in_channels=input_channels(network, dataset_info.channels),
        image_size=recipe.data.image_size,
    )


def check_networks(cell: Cell) -> None:
    """Check what a worker will of the recipe's networks before it trains.

    Only those that may refuse are built, mostly without memory for their weights. Raises DataError
    for images of a size that one cannot take, UsageError where one lacks what a key is about,
    PluginError and NotFound for what a plugin or timm does not have.
    """
    recipe = cell.recipe
    for key, network in _networks(recipe):
        with located(cell, key):
            _check_network(network, recipe)
    if recipe.distill is not None and recipe.distill.features is not None:
        from lsqctl.training.feature_distillation import check_features

        with located(cell, "distill.features"):
            check_features(recipe)
    if recipe.train.bn_reestimate_images > 0:
        from lsqctl.training.evaluation import check_reestimation

        with located(cell, "train.bn_reestimate_images"):
            check_reestimation(build_meta_network(recipe.model.name, recipe), recipe.model.name)


def _networks(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield the key and the name of each network that a recipe names."""
    yield "model.name", recipe.model.name
    if recipe.distill is not None and recipe.distill.teacher_model is not None:
        yield "distill.teacher_model", recipe.distill.teacher_model


def _check_network(network: str, recipe: Recipe) -> None:
    """Raise where there is no such network, or it cannot take the recipe's images.

    What a plugin declares is built and tried on one image, as a worker will, and quantized.
    """
    if is_plugin_name(network):
        from lsqctl.models.factory import build_model

        dataset_info, size = DATASETS[recipe.data.name], recipe.data.image_size
        channels = input_channels(network, dataset_info.channels)
        model = build_model(
            network,
            num_classes=dataset_info.classes or ANY_CLASSES,
            in_channels=channels,
            image_size=size,
        )
        if network == recipe.model.name:
            _check_quantized(model, recipe, (channels, size, size))
    elif network.startswith(TIMM_PREFIX) or not MODELS.find(network).any_size:
        build_meta_network(network, recipe)


def _check_quantized(model: nn.Module, recipe: Recipe, input_shape: tuple[int, int, int]) -> None:
    """Quantize a network as a worker will, and calibrate it with noise."""
    import torch

    from lsqctl.training.beginning import calibrate_model, quantize_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that stay float, as some may
        model = quantize_model(model, recipe, input_shape)
        if recipe.quant.to_spec().quantized:
            calibrate_model(model, recipe, [torch.randn(2, *input_shape)])


def network_warnings(cells: Iterable[Cell]) -> list[str]:
    """Return, each once, why a network could not be looked up here: timm is missing.

    Raises NotFound for one that timm does not have.
    """
    warnings: dict[str, None] = {}
    for cell in cells:
        try:
            check_timm_networks(cell)
        except DataError as error:
            warnings[str(error)] = None
    return list(warnings)


def check_timm_networks(cell: Cell) -> None:
    """Raise NotFound for a network that timm does not have, DataError where timm is missing."""
    for key, network in _networks(cell.recipe):
        if network.startswith(TIMM_PREFIX):
            from lsqctl.models.timm_models import check_timm_name

            with located(cell, key):
                check_timm_name(network)


def download_dataset(
    name: str, settings: Settings, *, notify: Callable[[str], None]
) -> Path | None:
    """Download a dataset, checked by its published digest; None for one that needs none.

    Raises NotFound for an unknown name, DataError where it cannot be downloaded.
    """
    DATASETS.find(name)
    from lsqctl.datasets.fetch import fetch_dataset

    notify(f"fetching {name} into {settings.data_dir}")
    return fetch_dataset(name, settings.data_dir)


_Place = tuple[str, str | None]  # a dataset's name, and its data.path


class DatasetFiles:
    """What lies in the data folder of the datasets that recipes name, each looked at once."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._classes: dict[_Place, int] = {}
        self._identities: dict[_Place, str] = {}
        self._checked_images: set[tuple[_Place, int, str, str]] = set()

    def classes(self, data: DataSection) -> int | None:
        """Return how many classes a dataset has; None where no folder is there to say it."""
        from lsqctl.datasets.image_folders import FolderDataset
        from lsqctl.datasets.presence import is_dataset_present

        place, known = (data.name, data.path), DATASETS[data.name].classes
        if known is not None or not is_dataset_present(data.name, self._data_dir, data.path):
            return known
        if place not in self._classes:
            train, _ = FolderDataset(data.name, data.path).list_splits(self._data_dir)
            self._classes[place] = len(train.classes)
        return self._classes[place]

    def identity(self, data: DataSection) -> str:
        """Return what names the content; raises DataError for what a worker would refuse."""
        from lsqctl.datasets.identity import dataset_identity

        place = data.name, data.path
        if place not in self._identities:
            self._identities[place] = dataset_identity(data.name, self._data_dir, data.path)
        return self._identities[place]

    def check_images(self, data: DataSection) -> None:
        """Raise DataError for a file that a worker could not open, or not resize as ``data`` says.

        Only of sets that are small enough: opening ImageNet's files takes minutes.
        """
        from lsqctl.datasets.image_files import check_image
        from lsqctl.datasets.image_folders import FolderDataset, small_splits

        use = (data.name, data.path), data.resize, data.resize_mode, data.decoder
        if not DATASETS[data.name].is_image_folder or use in self._checked_images:
            return
        dataset = FolderDataset(data.name, data.path)
        dataset.check_use(self._data_dir, resize=data.resize, decoder=data.decoder)
        for path in small_splits(dataset.list_splits(self._data_dir)):
            check_image(path, resize=data.resize, mode=data.resize_mode)
        self._checked_images.add(use)


class WeightFiles:
    """Searches beside the recipe, in the current folder and in ``data_dir``."""

    def __init__(self, data_dir: Path, datasets: DatasetFiles) -> None:
        self._data_dir = data_dir
        self._datasets = datasets
        self._digests: dict[Path, str] = {}
        self._checked_uses: list[tuple[Path, str, DataSection, bool]] = []
        self.notes: dict[str, None] = {}  # what is to be said of them in the plan, in order

    def resolve(
        self, key: str, weights_name: str, recipe: Recipe, recipe_dir: Path
    ) -> dict[str, str]:
        """Return the name, path and sha256 of the file that ``recipe`` names under ``key``.

        Raises DataError when there is none, or it does not fit the network that it is meant for.
        """
        from lsqctl.bundled import file_sha256

        path = self._find(key, weights_name, recipe, recipe_dir)
        if path not in self._digests:
            self._digests[path] = file_sha256(path)
        use = (path, recipe.network_of(key), recipe.data, replaces_head(key, recipe))
        if use not in self._checked_uses:
            classes = self._datasets.classes(recipe.data)
            if new_head := check_weights_fit(key, path, recipe, classes):
                self.notes[f"{recipe.name}: {new_head} as in {weights_name}"] = None
            self._checked_uses.append(use)
        return {"name": weights_name, "path": str(path), "sha256": self._digests[path]}

    def _find(self, key: str, weights_name: str, recipe: Recipe, recipe_dir: Path) -> Path:
        from lsqctl.worker.inputs import find_weights_file

        path = find_weights_file(weights_name, recipe_dir, self._data_dir)
        if path is None:
            hints = [h for folder, h in _WEIGHTS_HINTS.items() if weights_name.startswith(folder)]
            raise DataError(
                f"{recipe.name}: {key}: no file {weights_name} beside the recipe, here, or in "
                f"{self._data_dir} (--data-dir or LSQCTL_DATA names another folder)"
                + "".join(f"; {hint}" for hint in hints)
            )
        return path


def check_weights_fit(key: str, path: Path, recipe: Recipe, num_classes: int | None) -> str:
    """Compare a file's names and shapes with the network's; return which classifier is replaced.

    Where no folder says how many classes, only the worker can. Raises DataError.
    """
    from lsqctl.training.weights import check_weights

    if num_classes is None:
        return ""
    network = recipe.network_of(key)
    model = build_meta_network(network, recipe, num_classes)
    head = _head_of(model, recipe) if replaces_head(key, recipe) else ""
    return check_weights(model, path, model_name=network, key=f"{recipe.name}: {key}", head=head)


def _head_of(model: nn.Module, recipe: Recipe) -> str:
    from lsqctl.models.heads import classifier_name

    size = recipe.data.image_size
    channels = input_channels(recipe.model.name, DATASETS[recipe.data.name].channels)
    return classifier_name(model, (channels, size, size))


def new_head_note(key: str, classes: int | None, recipe: Recipe) -> str:
    """Return what the plan says of a classifier that will be replaced, or may be; else nothing.

    ``classes`` are those that the weights were trained for, None where they are not known.
    """
    data_classes = DATASETS[recipe.data.name].classes
    if not replaces_head(key, recipe) or (classes and classes == data_classes):
        return ""
    if classes and data_classes:
        return f"{recipe.name}: a new classifier: {data_classes:,} classes, not {classes:,}"
    return f"{recipe.name}: a new classifier, where {recipe.data.name} has other classes"


# What a network may raise when it is built, or given images that it cannot take.
NETWORK_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(OSError, RuntimeError, TypeError, ValueError),
)


@dataclass(frozen=True, slots=True)
class SmokeReport:
    """How one recipe's trial went; ``error`` is empty where it went well.

    ``images`` is ``real``, or ``generated`` where the data is not at hand.
    """

    name: str
    seconds: float
    loss: float | None
    images: str
    error: str = ""


def run_smoke_tests(recipes: Iterable[LoadedRecipe], settings: Settings) -> Iterator[SmokeReport]:
    """Yield how each recipe's trial went; of cells that differ in the seed alone, the first's."""
    from lsqctl.training.smoke import smoke

    for loaded in recipes:
        for name, recipe in {cell.recipe.name: cell.recipe for cell in loaded.cells}.items():
            try:
                result = smoke(recipe, settings.data_dir)
            except LsqctlError as error:
                yield SmokeReport(name, 0.0, None, "", str(error))
            except NETWORK_ERRORS as error:
                reason = (str(error).splitlines() or [""])[0]
                yield SmokeReport(name, 0.0, None, "", f"{type(error).__name__}: {reason}")
            else:
                yield SmokeReport(name, result.seconds, result.loss, result.image_source)
