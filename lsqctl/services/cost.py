"""What a recipe's network costs, before any run: bytes, MACs and bit operations, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from lsqctl.datasets import DATASETS
from lsqctl.datasets.image_folders import FolderDataset, images_root
from lsqctl.errors import DataError
from lsqctl.models import input_channels
from lsqctl.recipe import DataSection, Recipe
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.quant import ModelCost

_ASSUMED_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class RecipeCost:
    """The cost of a recipe's network for one image of ``input_shape`` (C, H, W).

    ``classes_source`` says where their number is from: ``dataset``, ``folder`` (its classes were
    counted), or ``assumed`` where the data is not at hand.
    """

    cost: ModelCost
    input_shape: tuple[int, int, int]
    classes: int
    classes_source: str

    def as_dict(self) -> dict[str, object]:
        """Return sums and layers for JSON: sizes in bytes, MACs and BOPs per image."""
        sums = asdict(self.cost)
        layers = sums.pop("layers")
        for data, layer in zip(layers, self.cost.layers, strict=True):
            data["bops"] = layer.bops
        return {
            "input_shape": self.input_shape,
            "classes": self.classes,
            "classes_source": self.classes_source,
            **sums,
            "layers": layers,
        }


def recipe_cost(recipe: Recipe, settings: Settings) -> RecipeCost:
    """Return what the network costs as it will be deployed; nothing is computed or loaded.

    Raises DataError where it cannot be built for these images or quantized so, or needs timm.
    """
    from lsqctl.models.factory import build_on_meta
    from lsqctl.models.heads import example_of
    from lsqctl.quant import model_cost, prepare

    dataset_info = DATASETS[recipe.data.name]
    channels = input_channels(recipe.model.name, dataset_info.channels)
    size = recipe.data.image_size
    classes, classes_source = _num_classes(recipe.data, dataset_info.classes, settings)
    model_arguments = {"num_classes": classes, "in_channels": channels, "image_size": size}
    model = build_on_meta(recipe.model.name, **model_arguments)
    spec = recipe.quant.to_spec()
    try:
        if spec.quantized:
            model = prepare(model, spec, example_of(model, (channels, size, size)))
        cost = model_cost(model, (channels, size, size))
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"the cost of {recipe.model.name} cannot be counted: {reason}") from None
    return RecipeCost(cost, (channels, size, size), classes, classes_source)


class CostCache:
    """Costs of many recipes; those of one network, with one quantization, are counted once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cache: dict[str, RecipeCost] = {}

    def get(self, recipe: Recipe) -> RecipeCost:
        """Return what ``recipe_cost`` does."""
        data: Mapping[str, object] = recipe.model_dump(mode="json")
        images = recipe.data.name, recipe.data.path, recipe.data.crop
        key = repr((recipe.model.name, images, data["quant"]))
        if key not in self._cache:
            self._cache[key] = recipe_cost(recipe, self._settings)
        return self._cache[key]


def _num_classes(data: DataSection, declared: int | None, settings: Settings) -> tuple[int, str]:
    if declared is not None:
        return declared, "dataset"
    root = images_root(settings.data_dir, data.path or data.name)
    if root.is_file():
        train, _ = FolderDataset(data.name, data.path).list_splits(settings.data_dir)
        return len(train.classes), "folder"
    folder = root / "train"
    n_folders = sum(path.is_dir() for path in folder.iterdir()) if folder.is_dir() else 0
    return (n_folders, "folder") if n_folders else (_ASSUMED_CLASSES, "assumed")
