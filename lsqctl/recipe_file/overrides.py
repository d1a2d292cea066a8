"""``quant.overrides`` in a file: what is wrong in it, and what a cell that varies it is called."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from lsqctl.errors import Diagnostic
from lsqctl.quant.spec import FLOAT_BITS
from lsqctl.recipe import OverrideSection
from lsqctl.recipe_file.keys import NON_KEY_HINTS
from lsqctl.recipe_file.loaded import Cell
from lsqctl.recipe_file.nodes import Node
from lsqctl.recipe_file.sentences import bad_value_diagnostic
from lsqctl.recipe_file.spelling import closest_name, three_closest_names

OVERRIDES_KEY = "quant.overrides"
_MAX_LABEL = 32
_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]+")


def override_diagnostic(error: Mapping[str, Any], inner: tuple[str, ...], node: Node) -> Diagnostic:
    """Return the diagnostic of one pydantic error inside ``quant.overrides``, which is ``node``."""
    glob, leaf = inner[0], inner[1] if len(inner) > 1 else ""
    path = f"{OVERRIDES_KEY}.{glob}"
    if glob not in node.entries:
        return bad_value_diagnostic(error, path, (), node)
    entry = node.entries[glob]
    if leaf not in entry.value.entries:
        return bad_value_diagnostic(error, path, (), entry.value)
    leaf_entry = entry.value.entries[leaf]
    if error["type"] == "extra_forbidden":
        return leaf_entry.key.diagnostic(
            "R101", f"unknown key `{path}.{leaf}`", *_unknown_override_key(leaf)
        )
    diagnostic = bad_value_diagnostic(error, f"quant.{leaf}", (), leaf_entry.value)
    return replace(diagnostic, title=diagnostic.title.replace(f"quant.{leaf}", f"{path}.{leaf}"))


def layer_diagnostics(cell: Cell, names: Sequence[str], *, residual: bool) -> list[Diagnostic]:
    """Return what a cell says of layers that its network does not have.

    ``names`` are those of the network's layers; ``residual`` says whether its residual additions
    are known.
    """
    model, quant, diagnostics = cell.recipe.model.name, cell.recipe.quant, []
    for glob in quant.overrides:
        if any(fnmatchcase(name, glob) for name in names):
            continue
        node = cell.nodes[OVERRIDES_KEY]
        here = node.entries[glob].key if glob in node.entries else node
        near = ", ".join(f"`{name}`" for name in three_closest_names(glob, names))
        message = f"matches no layer of {model}"
        diagnostics.append(
            here.diagnostic("R107", f"`{OVERRIDES_KEY}.{glob}`", message, f"the nearest are {near}")
        )
    if quant.residual_bits != FLOAT_BITS and not residual:
        key = "quant.residual_bits"
        message = f"{model} has no residual addition that is known here"
        hint = "leave the key out: only those of ResNets and SqueezeNext are known"
        diagnostics.append(cell.nodes[key].diagnostic("R107", f"`{key}`", message, hint))
    return diagnostics


def overrides_label(node: Node) -> str:
    """Return what a cell with these overrides is called: ``layer1-w8a8``, or by their hash."""
    parts = [
        _NOT_ALPHANUMERIC.sub("-", glob).strip("-") + _settings_label(entry.value.to_python())
        for glob, entry in node.entries.items()
    ]
    label = "-".join(part for part in parts if part)
    if not node.entries:
        return "uniform"
    if len(label) <= _MAX_LABEL:
        return label
    text = json.dumps(list(node.to_python().items()))
    return f"overrides-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _settings_label(values: Any) -> str:
    """Return ``-w8a8``, and any other key by its name and value."""
    if not isinstance(values, dict):
        return ""
    bits = [f"{k}{values[key]}" for k, key in _BITS if key in values]
    plain = {key: value for key, value in values.items() if not key.endswith("_bits")}
    others = [f"-{key}-{value}".lower() for key, value in plain.items()]
    return ("-" if bits else "") + "".join(bits) + _NOT_ALPHANUMERIC.sub("-", "".join(others))


_BITS = (("w", "weight_bits"), ("a", "act_bits"))


def _unknown_override_key(leaf: str) -> tuple[str, str]:
    """Return the message and the hint of a key that no override has."""
    allowed = tuple(OverrideSection.model_fields)
    near = closest_name(leaf, allowed)
    hint = f"did you mean `{near}`?" if near else f"keys allowed here: {', '.join(allowed)}"
    return "not a known key", NON_KEY_HINTS.get(leaf, hint)
