"""What a recipe's network costs, before any run: bytes, MACs and bit operations, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lsqctl.errors import DataError
from lsqctl.recipe import DATASETS, Recipe
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.quant import ModelCost

_ASSUMED_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class RecipeCost:
    """The cost of a recipe's network for one image of ``input_shape`` (C, H, W).

    ``classes_from`` says where their number is from: ``dataset``, ``folder`` (its class folders
    were counted), or ``assumed`` where the data is not at hand.
    """

    cost: ModelCost
    input_shape: tuple[int, int, int]
    classes: int
    classes_from: str

    def as_dict(self) -> dict[str, Any]:
        """Return sums and layers for JSON: sizes in bytes, MACs and BOPs per image."""
        found = asdict(self.cost)
        layers = found.pop("layers")
        for data, layer in zip(layers, self.cost.layers, strict=True):
            data["bops"] = layer.bops
        return {
            "input_shape": self.input_shape,
            "classes": self.classes,
            "classes_from": self.classes_from,
            **found,
            "layers": layers,
        }


def recipe_cost(recipe: Recipe, settings: Settings) -> RecipeCost:
    """Return what the network costs as it will be deployed; nothing is computed or loaded.

    Raises DataError where it cannot be built for these images or quantized so, or needs timm.
    """
    from lsqctl.quant import model_cost, prepare
    from lsqctl.training.models import input_channels
    from lsqctl.training.models.weightless import build_weightless

    facts = DATASETS[recipe.data.name]
    channels = input_channels(recipe.model.name, facts.channels)
    size = recipe.data.image_size
    classes, classes_from = _classes(recipe.data.name, facts.classes, settings)
    network = {"num_classes": classes, "in_channels": channels, "image_size": size}
    model = build_weightless(recipe.model.name, **network)
    spec = recipe.quant.spec()
    try:
        if spec.quantized:
            model = prepare(model, spec)
        cost = model_cost(model, (channels, size, size))
    except (ValueError, RuntimeError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"the cost of {recipe.model.name} cannot be counted: {told}") from None
    return RecipeCost(cost, (channels, size, size), classes, classes_from)


class Costs:
    """Costs of many recipes; those of one network, with one quantization, are counted once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[str, RecipeCost] = {}

    def of(self, recipe: Recipe) -> RecipeCost:
        """Return what ``recipe_cost`` does."""
        data: Mapping[str, Any] = recipe.model_dump(mode="json")
        key = repr((recipe.model.name, recipe.data.name, recipe.data.crop, data["quant"]))
        if key not in self._known:
            self._known[key] = recipe_cost(recipe, self._settings)
        return self._known[key]


def _classes(name: str, known: int | None, settings: Settings) -> tuple[int, str]:
    if known is not None:
        return known, "dataset"
    folder = settings.data_dir / name / "train"
    found = sum(one.is_dir() for one in folder.iterdir()) if folder.is_dir() else 0
    return (found, "folder") if found else (_ASSUMED_CLASSES, "assumed")
