"""A recipe back to YAML or to flat values: complete, in one order, with each value's origin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lsqctl.recipe import Recipe, derived_defaults
from lsqctl.recipe_file.loaded_recipe import LoadedRecipe
from lsqctl.run import JsonObject

_PLAIN_SCALAR = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_RESERVED_WORDS = {"true", "false", "null"}


def dump(recipe: Recipe, origins: Mapping[str, str] | None = None) -> str:
    """Return ``recipe`` as YAML that loads back to it; ``origins`` become trailing comments."""
    rows = list(_lines(recipe.model_dump()))
    width = max(len(text) for _, text in rows) if origins else 0
    lines = []
    for key, text in rows:
        origin = (origins or {}).get(key)
        lines.append(f"{text:<{min(width, 60)}}  # {origin}" if origin else text)
    return "\n".join(lines) + "\n"


def dump_scalar(value: object) -> str:
    """Return one value in YAML 1.2's flow form."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{dump_scalar(key)}: {dump_scalar(item)}" for key, item in value.items())
            + "}"
        )
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if not isinstance(value, str):
        return repr(value)
    if _PLAIN_SCALAR.fullmatch(value) and value.lower() not in _RESERVED_WORDS:
        return value
    return '"' + "".join(map(_escape_character, value)) + '"'


def _lines(data: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if not isinstance(value, dict):
            yield key, f"{key}: {dump_scalar(value)}"
            continue
        yield "", f"{key}:"
        for leaf, item in value.items():
            yield f"{key}.{leaf}", f"  {leaf}: {dump_scalar(item)}"


def _escape_character(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


# Stand in for what a base leaves open, so that all else can be filled in and checked.
_PLACEHOLDERS = {"model.name": "resnet18", "data.name": "imagenet"}
_PLACEHOLDERS |= {"distill.teacher": "open", "extension.run": "open"}


def flatten_recipe(recipe: Recipe | Mapping[str, object]) -> JsonObject:
    """Return a recipe's values by dotted key, a section's keys instead of it."""
    tree = recipe.model_dump(mode="json") if isinstance(recipe, Recipe) else recipe
    values: JsonObject = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            values |= {f"{key}.{leaf}": item for leaf, item in value.items()}
        else:
            values[key] = value
    return values


def flatten_base(base: LoadedRecipe) -> tuple[JsonObject, frozenset[str]]:
    """Return what an abstract recipe says, defaults included, and the keys it leaves open.

    Without a network the first weights are open too; without a dataset, so is what follows from it.
    """
    explicit = {key: value for key, value in base.explicit.items() if key != "name"}
    tree = _unflatten(explicit)
    missing = {key for key in _PLACEHOLDERS if key not in explicit and _is_required(key, tree)}
    filled = _unflatten({**explicit, **{key: _PLACEHOLDERS[key] for key in missing}})
    derived = {key: value for key, (value, _) in derived_defaults(filled).items()}
    complete = Recipe.model_validate(
        _unflatten({**derived, **flatten_recipe(filled)}) | {"name": base.name}
    )
    open_keys = set(missing)
    if "model.name" in missing:
        open_keys |= {"model.weights"} - explicit.keys()
    if "data.name" in missing:
        open_keys |= {key for key in derived if key.startswith("data.")} - explicit.keys()
    values = {key: value for key, value in flatten_recipe(complete).items() if key not in open_keys}
    return values, frozenset(open_keys)


def _is_required(key: str, tree: Mapping[str, object]) -> bool:
    section = key.partition(".")[0]
    return section not in ("distill", "extension") or section in tree


def _unflatten(leaves: Mapping[str, object]) -> JsonObject:
    tree: JsonObject = {}
    for dotted, value in leaves.items():
        section, _, leaf = dotted.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[leaf] = value
    return tree
