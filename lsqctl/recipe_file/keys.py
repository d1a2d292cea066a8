"""Every key of a recipe file, read off ``lsqctl.recipe``: as mappings, table and JSON Schema."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from lsqctl.datasets import DATASETS
from lsqctl.recipe import OverrideSection, Recipe, RunRef, Section, StopSection, derived_defaults
from lsqctl.recipe_file.serialization import dump_scalar
from lsqctl.run import JsonObject

FILE_KEYS: Mapping[str, str] = {
    "extends": "another recipe, by name or by its path from this file, whose keys this one changes",
    "abstract": "true: a base for others, which cannot be run itself",
    "sweep": "zip (side by side) and grid (every combination): dotted key to a list of values; "
    "random: dotted key to a distribution, drawn `runs` times; halving: which cells fall out early",
}
SWEEP_PARTS = ("zip", "grid", "random", "runs", "halving")
DISTRIBUTIONS = ("uniform(LOW, HIGH)", "loguniform(LOW, HIGH)", "integer(LOW, HIGH)")
HALVING_KEYS = ("metric", "factor", "first")
HALVING_METRICS = ("top1", "loss")
# What one might look for and no recipe has, with the reason.
NON_KEY_HINTS: Mapping[str, str] = {
    "act_per_channel": "activations have one step size a tensor; `per_channel` is of weights",
    **dict.fromkeys(
        ("bits", "n_bits", "nbits", "num_bits", "bit_width", "bitwidth", "precision_bits"),
        "weights have `quant.weight_bits`, activations `quant.act_bits`",
    ),
    **dict.fromkeys(("wbits", "w_bit"), "weights have `quant.weight_bits`"),
    **dict.fromkeys(("abits", "a_bit"), "activations have `quant.act_bits`"),
    **dict.fromkeys(("quantization", "quantize", "quantizer"), "the section is called `quant`"),
    **dict.fromkeys(("network", "arch"), "the section is called `model`, its key `model.name`"),
    **dict.fromkeys(("optimizer", "optim"), "it is SGD: `train.momentum`, `train.nesterov`"),
    "learning_rate": "it is called `train.lr`",
}


def section_of(field: FieldInfo) -> type[Section] | None:
    """Return the section that a top-level key holds, or None."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


SECTIONS: Mapping[str, type[Section]] = {
    name: section
    for name, field in Recipe.model_fields.items()
    if (section := section_of(field)) is not None
}
FIELDS: Mapping[str, FieldInfo] = {
    **{name: field for name, field in Recipe.model_fields.items() if name not in SECTIONS},
    **{
        f"{name}.{key}": field
        for name, section in SECTIONS.items()
        for key, field in section.model_fields.items()
    },
}
# Keys that hold a section of their own.
NESTED: Mapping[str, type[Section]] = {"train.stop": StopSection}
NESTED_FIELDS: Mapping[str, FieldInfo] = {
    f"{key}.{leaf}": field
    for key, section in NESTED.items()
    for leaf, field in section.model_fields.items()
}
TOP_KEYS: tuple[str, ...] = (*FILE_KEYS, *Recipe.model_fields)
# What a sweep may vary and --set may change: what a run is, not what it is called.
SETTABLE_KEYS: tuple[str, ...] = (
    *(k for k in FIELDS if k not in ("name", "description")),
    "distill",
)


def choices_of(key: str) -> tuple[str, ...]:
    """Return the values a key chooses from, as text; empty where it takes any."""
    field = FIELDS.get(key) or NESTED_FIELDS.get(key)
    if field is None:
        return ()
    for kind in (field.annotation, *get_args(field.annotation)):
        if get_origin(kind) is Literal:
            return tuple(map(str, get_args(kind)))
    return tuple(map(str, _schema_extra(field).get("choices", ())))


def unit_of(key: str) -> str:
    """Return the unit of a key's value; empty for words, switches and bare numbers."""
    field = FIELDS.get(key) or NESTED_FIELDS.get(key)
    unit = str(_schema_extra(field).get("unit", "")) if field else ""
    return "" if unit == "1" else unit


class KeyRow(NamedTuple):
    """One line of the table of every key."""

    key: str
    type: str
    default: str
    unit: str
    meaning: str


def keys_table() -> list[KeyRow]:
    """Return every key of a recipe file with its type, default, unit and meaning."""
    rows = [
        KeyRow("extends", "text", "–", "", FILE_KEYS["extends"]),
        KeyRow("abstract", "true or false", "false", "", FILE_KEYS["abstract"]),
        KeyRow("sweep", "section", "–", "", FILE_KEYS["sweep"]),
    ]
    for key, field in FIELDS.items():
        rows.append(
            KeyRow(
                key,
                _type_column(key, field),
                _default_column(key, field),
                unit_of(key),
                _meaning_column(field),
            )
        )
    return rows


def keys_markdown() -> str:
    """Return the table of every key as it stands in recipes/README.md."""
    lines = ["| key | type | default | unit | meaning |", "|---|---|---|---|---|"]
    for row in keys_table():
        cells = (f"`{row.key}`", row.type, row.default, row.unit, row.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def type_text(kind: object) -> str:
    """Return a Python type in a recipe writer's words."""
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_text(part) for part in get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, Section):
        return "{run: NAME}" if kind is RunRef else "{" + ", ".join(kind.model_fields) + "}"
    if get_origin(kind) is dict:
        return "{GLOB: {KEY: VALUE}}"
    if get_origin(kind) is not None:  # Annotated
        return type_text(get_args(kind)[0])
    names: dict[object, str] = {
        int: "whole number",
        float: "number",
        bool: "true or false",
        str: "text",
    }
    return names.get(kind, "null")


def _type_column(key: str, field: FieldInfo) -> str:
    if "registry" in _schema_extra(field):
        return f"the name of a {_schema_extra(field)['registry']}"  # which there are, changes
    if choices := choices_of(key):
        return ", ".join(choices)
    words = type_text(field.annotation)
    bounds = {type(m).__name__: m for m in field.metadata}
    low = next(
        (f"{w} {getattr(bounds[n], n.lower())}" for n, w in _LOWER_BOUNDS if n in bounds), ""
    )
    high = next(
        (f"{w} {getattr(bounds[n], n.lower()):,}" for n, w in _UPPER_BOUNDS if n in bounds), ""
    )
    return ", ".join(filter(None, (words, low, high)))


_LOWER_BOUNDS = (("Ge", "at least"), ("Gt", "above"))
_UPPER_BOUNDS = (("Le", "at most"), ("Lt", "below"))


def _default_column(key: str, field: FieldInfo) -> str:
    if field.is_required():
        return "the file's path" if key == "name" else "required"
    probes: list[JsonObject] = [{"data": {"name": name}} for name in DATASETS]
    defaults = [derived_defaults(probe).get(key, (None, ""))[0] for probe in probes]
    if key.startswith("data.") and any(value is not None for value in defaults):
        return "by dataset"
    if key.startswith("quant.") and defaults[0] is not None:
        return "8 or 32"
    value = field.default
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value}" if value not in ("", {}) else "empty"


def _meaning_column(field: FieldInfo) -> str:
    return field.description or ""


def _schema_extra(field: FieldInfo) -> JsonObject:
    extra = dict(field.json_schema_extra) if isinstance(field.json_schema_extra, dict) else {}
    for part in get_args(field.annotation):  # Bits | None keeps its extras inside the union
        for meta in getattr(part, "__metadata__", ()):
            if isinstance(getattr(meta, "json_schema_extra", None), dict):
                extra = {**meta.json_schema_extra, **extra}
    return extra


SCHEMA_ID = "urn:lsqctl:recipe:1"
SCHEMA_FILE = "lsqctl.schema.json"


def json_schema() -> JsonObject:
    """Return the JSON Schema of a recipe *file*: bases, sweeps and left-out keys included."""
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    nested = {section.__name__ for section in NESTED.values()}
    names = {section.__name__ for section in SECTIONS.values()} | {OverrideSection.__name__}
    for name in sorted(names | nested):
        definition = definitions[name]
        if name not in nested:
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
name: {dump_scalar(name)}
description: ""            # one line for `lsqctl recipe ls`
# extends: paper/w4a4      # the paper's bits, epochs, learning rate and weight decay
model:
  name: resnet8            # or another network of lsqctl or torchvision, or timm/NAME
  weights: {{run: digits/resnet8-fp32}}   # or a file, or a torchvision weights name
data:
  name: digits             # or {", ".join(name for name in DATASETS if name != "digits")}
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


def _file_keys(definitions: JsonObject, properties: JsonObject) -> JsonObject:
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
            "properties": {"zip": axis, "grid": axis, **_search_schema(lists)},
        },
    }


def _search_schema(lists: JsonObject) -> JsonObject:
    """Return the schema of what a sweep draws, and of how its cells fall out."""
    text = {"type": "string", "pattern": r"^\s*(uniform|loguniform|integer)\s*\(.*,.*\)\s*$"}
    draws = {key: {"anyOf": [text, values]} for key, values in lists.items()}
    metric = {"enum": list(HALVING_METRICS)}
    factor, first = {"type": "integer", "minimum": 2}, {"type": "integer", "minimum": 1}
    halving = dict(zip(HALVING_KEYS, (metric, factor, first), strict=True))
    closed = {"type": "object", "additionalProperties": False}
    return {
        "random": {**closed, "properties": draws},
        "runs": first,
        "halving": {**closed, "properties": halving},
    }


def _to_json_schema(prop: JsonObject) -> None:
    """Turn lsqctl's ``choices`` and ``unit`` into what an editor knows."""
    extra: JsonObject = {}
    for part in (prop, *prop.get("anyOf", ())):  # of Bits | None they stand inside
        extra |= {
            key: part.pop(key)
            for key in ("choices", "or_pattern", "registry", "unit")
            if key in part
        }
    if (unit := extra.get("unit", "1")) != "1":
        prop["description"] = f"{prop.get('description', '')} ({unit})"
    if "choices" not in extra:
        return
    alternatives: list[JsonObject] = [{"enum": extra["choices"]}]
    if "or_pattern" in extra:
        alternatives.append({"type": "string", "pattern": extra["or_pattern"]})
    if "anyOf" in prop:
        alternatives.append({"type": "null"})
    if len(alternatives) > 1:
        prop["anyOf"] = alternatives
    else:
        prop["enum"] = extra["choices"]
