"""Check recipes against their networks before anything is queued: named layers, one trial step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from lsqctl.errors import Diagnostic, LsqctlError
from lsqctl.quant.spec import FLOAT_BITS
from lsqctl.recipe import Recipe
from lsqctl.recipe_file import Cell, LoadedRecipe, layer_diagnostics
from lsqctl.settings import Settings


def check_layers(recipes: Sequence[LoadedRecipe]) -> list[Diagnostic]:
    """Return the diagnostics of globs and keys that fit no layer of their network, each once.

    Only a recipe with such a key has its network built, without memory for its weights.
    """
    return [diagnostic for recipe in recipes for diagnostic in _layer_diagnostics(recipe)]


def _layer_diagnostics(recipe: LoadedRecipe) -> list[Diagnostic]:
    """Return a recipe's diagnostics; one that only some cells have names the first of them."""
    cells_by_diagnostic: dict[Diagnostic, list[Cell]] = {}
    for cell in recipe.cells:
        if _names_layers(cell.recipe):
            from lsqctl.models.factory import network_layers

            size = cell.recipe.data.image_size
            names, residual = network_layers(cell.recipe.model.name, image_size=size)
            for diagnostic in layer_diagnostics(cell, names, residual=residual):
                cells_by_diagnostic.setdefault(diagnostic, []).append(cell)
    return [
        diagnostic
        if len(cells) == len(recipe.cells)
        else replace(diagnostic, cell=f"cell {cells[0].label}")
        for diagnostic, cells in cells_by_diagnostic.items()
    ]


def _names_layers(recipe: Recipe) -> bool:
    return bool(recipe.quant.overrides) or recipe.quant.residual_bits != FLOAT_BITS


# What a network may raise when it is built, or given images that it cannot take.
_NETWORK_ERRORS = (
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
            except _NETWORK_ERRORS as error:
                reason = (str(error).splitlines() or [""])[0]
                yield SmokeReport(name, 0.0, None, "", f"{type(error).__name__}: {reason}")
            else:
                yield SmokeReport(name, result.seconds, result.loss, result.image_source)
