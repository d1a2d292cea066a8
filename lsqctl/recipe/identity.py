"""What identifies a recipe: one hash over its training semantics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from lsqctl.recipe.whole import Recipe

# A change of a default, or of a key's meaning, must raise this: it is part of every hash.
HASH_SCHEMA = 1


def fingerprint(recipe: Recipe, inputs: Mapping[str, str], *, with_seed: bool) -> str:
    """Return the sha256 that identifies a recipe's training semantics.

    ``inputs`` names, by key, the bytes behind ``model.weights`` and ``distill.teacher``
    (``file:SHA256``, ``torchvision:NAME`` or ``run:RECIPE_SHA256``), for a path says nothing of
    its content. Name and description are left out, and so is every key at its default: a key
    that a later version adds leaves the hashes of older recipes as they were.
    """
    data = recipe.model_dump(mode="json", exclude_defaults=True)
    for key in ("name", "description", *(() if with_seed else ("seed",))):
        data.pop(key, None)
    for key, identity in inputs.items():
        section, field = key.split(".")
        data[section][field] = identity
    missing = recipe.input_refs().keys() - inputs.keys()
    if missing:
        raise ValueError(f"the bytes behind {', '.join(sorted(missing))} are not known")
    text = json.dumps([HASH_SCHEMA, data], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
