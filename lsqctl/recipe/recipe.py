"""The Recipe: one complete experiment as a frozen value, what it may be called, and its hash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError

from lsqctl.datasets import DATASETS
from lsqctl.discovery import Plugin, is_plugin_name
from lsqctl.errors import PluginError, UsageError
from lsqctl.models import MODELS
from lsqctl.recipe.quant_section import QuantSection
from lsqctl.recipe.sections import (
    DataSection,
    DistillSection,
    ExtensionSection,
    ModelSection,
    RunRef,
    Section,
)
from lsqctl.recipe.train_section import TrainSection
from lsqctl.run import EXTENSION_ROLE

MAX_NAME_PART = 64  # letters between two `/`
NAME_PART = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_PART - 1}}}")
NAME_PART_RULE = (
    "at most 64 letters, digits, `.`, `_` and `-`, beginning with a letter or digit, and none a "
    "device of Windows such as `con`"
)
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def is_valid_name(text: str) -> bool:
    """Return whether ``text`` can name a recipe: at most four safe parts joined by ``/``."""
    parts = text.split("/")
    return len(parts) <= 4 and all(
        NAME_PART.fullmatch(part) and ".." not in part and not _WINDOWS_DEVICE.fullmatch(part)
        for part in parts
    )


def _check_name(value: object) -> object:
    if isinstance(value, str) and not is_valid_name(value):
        raise ValueError(f"must be one to four parts joined by `/`, each of {NAME_PART_RULE}")
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
    extension: ExtensionSection | None = Field(
        None, description="left out: the run begins with its first epoch"
    )
    seed: int = Field(
        0, ge=0, le=2**31 - 1, description="decides data order, augmentation and first weights"
    )

    def input_refs(self) -> dict[str, str | RunRef]:
        """Return what must exist before the run starts, by key: files, names or other runs."""
        refs: dict[str, str | RunRef] = {}
        if self.extension is not None:
            refs[EXTENSION_ROLE] = RunRef(run=self.extension.run)
        elif self.model.weights is not None:
            refs["model.weights"] = self.model.weights
        if self.distill is not None:
            refs["distill.teacher"] = self.distill.teacher
        return refs

    def network_of(self, key: str) -> str:
        """Return the network that the weights under a key of ``input_refs`` are loaded into."""
        if key == "distill.teacher" and self.distill and self.distill.teacher_model:
            return self.distill.teacher_model
        return self.model.name


def load_stored(data: Mapping[str, object]) -> Recipe:
    """Return the recipe that a run was stored with.

    Raises PluginError where it names what a plugin declares, and that cannot be used here, and
    UsageError for a run that was recorded, which has none, and for keys of another version.
    """
    if "recorded" in data:
        raise UsageError(
            f"`{data.get('name')}` was recorded of a loop of its own: lsqctl has neither its "
            "network nor its data, and cannot do that with it"
        )
    try:
        return Recipe.model_validate(dict(data))
    except ValidationError as error:
        found = error.errors(include_url=False)
    for details in found:
        if details["type"] == "plugin":
            raise PluginError(f"{data.get('name')}: {details['msg']}")
    key, reason = ".".join(map(str, found[0]["loc"])), found[0]["msg"].lower()
    raise UsageError(
        f"{data.get('name')}: `{key}`: {reason}: another version of lsqctl has submitted it; "
        "upgrade the older one"
    )


def plugins_of(recipe: Recipe) -> dict[str, Plugin]:
    """Return the plugins that declare what a recipe names, by kind and name: ``model a/b``.

    Raises NotFound and PluginError where one cannot be used.
    """
    teacher = recipe.distill.teacher_model if recipe.distill else None
    found = {
        f"model {name}": MODELS.plugin_of(name)
        for name in (recipe.model.name, teacher)
        if name is not None and is_plugin_name(name)
    }
    found[f"dataset {recipe.data.name}"] = DATASETS.plugin_of(recipe.data.name)
    return {name: plugin for name, plugin in found.items() if plugin is not None}


# A change of a default, or of a key's meaning, must raise this: it is part of every hash.
HASH_SCHEMA = 1


def fingerprint(recipe: Recipe, inputs: Mapping[str, str], *, with_seed: bool) -> str:
    """Return the sha256 that identifies a recipe's training semantics.

    ``inputs`` names, by key, the bytes behind ``model.weights`` and ``distill.teacher``
    (``file:SHA256``, ``torchvision:NAME`` or ``run:RECIPE_SHA256``), and behind ``data.name``
    where a folder holds the images, for a path says nothing of its content. Name and
    description are left out, and so is every key at its default: a key
    that a later version adds leaves the hashes of older recipes as they were.
    """
    data = recipe.model_dump(mode="json", exclude_defaults=True)
    for key in ("name", "description", *(() if with_seed else ("seed",))):
        data.pop(key, None)
    for key, identity in inputs.items():
        section, field = key.split(".")
        data[section][field] = identity
    if "data.name" in inputs:
        data["data"].pop("path", None)  # where the images lie says nothing of what they are
    missing = recipe.input_refs().keys() - inputs.keys()
    if missing:
        raise ValueError(f"the bytes behind {', '.join(sorted(missing))} are not known")
    text = json.dumps([HASH_SCHEMA, data], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
