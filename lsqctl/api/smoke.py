"""Try recipes in seconds, before anything is queued: each builds, quantizes, trains a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lsqctl.errors import LsqctlError
from lsqctl.recipe_file import LoadedRecipe
from lsqctl.settings import Settings

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
