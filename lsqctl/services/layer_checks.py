"""Whether a recipe's keys fit the layers of its network, found out before anything is queued."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from lsqctl.datasets import DATASETS
from lsqctl.errors import DataError, Diagnostic, UnfitKey, UsageError
from lsqctl.models import input_channels
from lsqctl.quant.methods import OFF
from lsqctl.quant.spec import FLOAT_BITS
from lsqctl.recipe import KeyConflict, Recipe
from lsqctl.recipe_file import Cell, LoadedRecipe, conflict_diagnostic, layer_diagnostics
from lsqctl.services.recipe_inputs import NETWORK_ERRORS, build_meta_network, located

_Checked = dict[tuple[object, ...], KeyConflict | None]  # by all that decides


def check_layers(recipes: Sequence[LoadedRecipe]) -> list[Diagnostic]:
    """Return the diagnostics of globs and keys that fit no layer of their network, each once.

    Only a recipe with such a key has its network built, without memory for its weights, and
    quantized by the functions that a worker calls.
    """
    checked: _Checked = {}
    return [one for recipe in recipes for one in _layer_diagnostics(recipe, checked)]


def _layer_diagnostics(recipe: LoadedRecipe, checked: _Checked) -> list[Diagnostic]:
    """Return a recipe's diagnostics; one that only some cells have names the first of them."""
    cells_by_diagnostic: dict[Diagnostic, list[Cell]] = {}
    for cell in recipe.cells:
        for diagnostic in _cell_diagnostics(cell, checked):
            cells_by_diagnostic.setdefault(diagnostic, []).append(cell)
    return [
        diagnostic
        if len(cells) == len(recipe.cells)
        else replace(diagnostic, cell=f"cell {cells[0].label}")
        for diagnostic, cells in cells_by_diagnostic.items()
    ]


def _cell_diagnostics(cell: Cell, checked: _Checked) -> list[Diagnostic]:
    recipe, diagnostics = cell.recipe, list[Diagnostic]()
    if _names_layers(recipe):
        from lsqctl.models.factory import network_layers

        with located(cell, "model.name"):
            names, residual = network_layers(recipe.model.name, image_size=recipe.data.image_size)
        diagnostics = layer_diagnostics(cell, names, residual=residual)
    if diagnostics:
        return diagnostics
    network = recipe.model.name, recipe.data.name, recipe.data.image_size
    key = *network, repr(recipe.quant.to_spec()), recipe.train.evaluation, *_methods(recipe)
    if key not in checked:
        checked[key] = _quantization_conflict(recipe)
    conflict = checked[key]
    return [conflict_diagnostic(conflict, cell)] if conflict else []


def _quantization_conflict(recipe: Recipe) -> KeyConflict | None:
    try:
        check_quantization(recipe)
    except UnfitKey as error:
        return KeyConflict(error.key, error.reason, error.hint)
    except UsageError as error:
        key = "quant.overrides" if recipe.quant.overrides else "model.name"
        return KeyConflict(key, str(error), "docs/quantization.md says what can be quantized")
    return None


def check_quantization(recipe: Recipe) -> None:
    """Quantize the network as a worker will, where a key is about its layers.

    Raises UsageError for what a worker would refuse. A network that cannot be built here, or not
    for images of this size, passes: that is said where it is looked up.
    """
    wants_integers = "integer" in (recipe.quant.kernel, recipe.train.evaluation)
    if not (_names_layers(recipe) or _methods(recipe) or wants_integers):
        return
    import torch

    from lsqctl.training.beginning import check_integer_layers, quantize_model
    from lsqctl.training.evaluation import decide_evaluation
    from lsqctl.training.optimizer_step import build_optimizer
    from lsqctl.training.session import build_methods_of

    size = recipe.data.image_size
    channels = input_channels(recipe.model.name, DATASETS[recipe.data.name].channels)
    with suppress(DataError, *NETWORK_ERRORS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that stay float, as some may
        model = build_meta_network(recipe.model.name, recipe)
        shape = channels, size, size
        model = quantize_model(model, recipe, shape)
        check_integer_layers(model, recipe)
        decide_evaluation(recipe.train.evaluation, model, torch.device("cpu"), shape)
        build_methods_of(model, build_optimizer(model, recipe), recipe)


def _names_layers(recipe: Recipe) -> bool:
    return bool(recipe.quant.overrides) or recipe.quant.residual_bits != FLOAT_BITS


def _methods(recipe: Recipe) -> list[str]:
    """Return the keys of the training methods that are on."""
    return [key for key, value in recipe.quant.method_values().items() if value != OFF[key]]
