"""The recipe file as JSON Schema, for editors, and the text of a new recipe."""

from __future__ import annotations

from typing import Any

from lsqctl.recipe import OverrideSection, Recipe
from lsqctl.recipe_file.keys import FILE_KEYS, SWEEP_PARTS, SECTIONS, SETTABLE_KEYS

SCHEMA_ID = "urn:lsqctl:recipe:1"
SCHEMA_FILE = "lsqctl.schema.json"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe *file*: bases, sweeps and left-out keys included."""
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    for name in (*(section.__name__ for section in SECTIONS.values()), OverrideSection.__name__):
        definition = definitions[name]
        definition.pop("required", None)  # a base may give it
        for prop in definition["properties"].values():
            _to_json_schema(prop)
    properties = schema["properties"]
    for name, prop in properties.items():
        _to_json_schema(prop)
        if name in SECTIONS:
            target = {"$ref": f"#/$defs/{SECTIONS[name].__name__}"}
            description = SECTIONS[name].__doc__ or ""
            properties[name] = {"anyOf": [target, {"type": "null"}], "description": description}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "lsqctl recipe",
        "description": "One experiment, or a sweep of several.",
        "type": "object",
        "additionalProperties": False,
        "anyOf": [{"required": ["extends"]}, {"required": ["abstract"]}, {"required": ["model"]}],
        "properties": {**_file_keys(definitions, properties), **properties},
        "$defs": definitions,
    }


def template(name: str) -> str:
    """Return the text of a new recipe called ``name``: it loads as it is."""
    return f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
# {name}: say here what this recipe is for
# (lsqctl recipe schema > {SCHEMA_FILE} lets your editor complete keys and underline mistakes)
name: {name}
description: ""            # one line for `lsqctl recipe ls`
# extends: paper/w4a4      # the paper's bits, epochs, learning rate and weight decay
model:
  name: resnet8            # or a torchvision classifier, cifar_resnet20/32/44/56/110, timm/NAME
  weights: {{run: digits/resnet8-fp32}}   # or a file, or a torchvision weights name
data:
  name: digits             # or mnist, fashion_mnist, cifar10, cifar100, imagenet, imagefolder
  batch_size: 64
quant:
  weight_bits: 4           # 2 to 8, or 32 for none; the first and the last layer follow at 8
  act_bits: 4
train:
  epochs: 10               # every key: lsqctl recipe schema; all values: lsqctl recipe show
  lr: 0.02
# sweep:                   # one file, many runs
#   zip: {{quant.weight_bits: [2, 3, 4], quant.act_bits: [2, 3, 4]}}
#   grid: {{seed: [0, 1, 2]}}
"""


def _file_keys(definitions: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    axes = {"extends": {"type": "string", "description": FILE_KEYS["extends"]}}
    for key in SETTABLE_KEYS:
        section, _, leaf = key.rpartition(".")
        key_schemas = (
            definitions[SECTIONS[section].__name__]["properties"] if section else properties
        )
        axes[key] = key_schemas[leaf]
    lists = {key: {"type": "array", "minItems": 1, "items": item} for key, item in axes.items()}
    axis = {"type": "object", "additionalProperties": False, "properties": lists}
    return {
        "extends": axes["extends"],
        "abstract": {"type": "boolean", "description": FILE_KEYS["abstract"]},
        "sweep": {
            "type": ["object", "null"],
            "description": FILE_KEYS["sweep"],
            "additionalProperties": False,
            "properties": dict.fromkeys(SWEEP_PARTS, axis),
        },
    }


def _to_json_schema(prop: dict[str, Any]) -> None:
    """Turn lsqctl's ``choices`` and ``unit`` into what an editor knows."""
    extra: dict[str, Any] = {}
    for part in (prop, *prop.get("anyOf", ())):  # of Bits | None they stand inside
        extra |= {key: part.pop(key) for key in ("choices", "or_pattern", "unit") if key in part}
    if (unit := extra.get("unit", "1")) != "1":
        prop["description"] = f"{prop.get('description', '')} ({unit})"
    if "choices" not in extra:
        return
    alternatives: list[dict[str, Any]] = [{"enum": extra["choices"]}]
    if "or_pattern" in extra:
        alternatives.append({"type": "string", "pattern": extra["or_pattern"]})
    if "anyOf" in prop:
        alternatives.append({"type": "null"})
    if len(alternatives) > 1:
        prop["anyOf"] = alternatives
    else:
        prop["enum"] = extra["choices"]
