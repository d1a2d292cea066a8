"""The Recipe: one complete experiment as a frozen value that checks itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from lsqctl.recipe.fields import Section
from lsqctl.recipe.names import is_valid_name
from lsqctl.recipe.quant_section import QuantSection
from lsqctl.recipe.sections import (
    DataSection,
    DistillSection,
    ModelSection,
    RunRef,
)
from lsqctl.recipe.train_section import TrainSection


def _check_name(value: object) -> object:
    if isinstance(value, str) and not is_valid_name(value):
        raise ValueError(
            "must be one to four parts joined by `/`, each of at most 64 letters, digits, `.`, `_` "
            "and `-`, beginning with a letter or digit, and none a device of Windows such as `con`"
        )
    return value


RecipeName = Annotated[str, BeforeValidator(_check_name)]


class Recipe(Section):
    """One complete experiment; the same recipe and seed give the same run."""

    name: RecipeName = Field(description="what runs and the board call it")
    description: str = Field("", max_length=1000, description="one line for `recipe ls`")
    model: ModelSection
    data: DataSection
    quant: QuantSection = QuantSection()
    train: TrainSection = TrainSection()
    distill: DistillSection | None = Field(None, description="left out: no teacher")
    seed: int = Field(
        0, ge=0, le=2**31 - 1, description="decides data order, augmentation and first weights"
    )

    def input_refs(self) -> dict[str, str | RunRef]:
        """Return what must exist before the run starts, by key: files, names or other runs."""
        refs: dict[str, str | RunRef] = {}
        if self.model.weights is not None:
            refs["model.weights"] = self.model.weights
        if self.distill is not None:
            refs["distill.teacher"] = self.distill.teacher
        return refs

    def network_of(self, key: str) -> str:
        """Return the network that the weights under a key of ``input_refs`` are loaded into."""
        if key == "distill.teacher" and self.distill and self.distill.teacher_model:
            return self.distill.teacher_model
        return self.model.name


def load_stored(data: Mapping[str, Any]) -> Recipe:
    """Return the recipe that a run was stored with."""
    return Recipe.model_validate(dict(data))
