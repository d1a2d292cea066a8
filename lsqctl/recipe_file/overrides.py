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
from lsqctl.recipe_file.keys import NOT_KEYS
from lsqctl.recipe_file.loaded import Cell
from lsqctl.recipe_file.nodes import Node
from lsqctl.recipe_file.sentences import bad_value
from lsqctl.recipe_file.spelling import closest, three_closest

KEY = "quant.overrides"
_LONGEST_LABEL = 32
_UNSAFE = re.compile(r"[^A-Za-z0-9]+")


def override_fault(error: Mapping[str, Any], inner: tuple[str, ...], node: Node) -> Diagnostic:
    """Return the fault of one pydantic error inside ``quant.overrides``, which is ``node``."""
    glob, leaf = inner[0], inner[1] if len(inner) > 1 else ""
    path = f"{KEY}.{glob}"
    if glob not in node.entries:
        return bad_value(error, path, (), node)
    entry = node.entries[glob]
    if leaf not in entry.value.entries:
        return bad_value(error, path, (), entry.value)
    below = entry.value.entries[leaf]
    if error["type"] == "extra_forbidden":
        return below.key.fault("R101", f"unknown key `{path}.{leaf}`", *_unknown(leaf))
    fault = bad_value(error, f"quant.{leaf}", (), below.value)
    return replace(fault, title=fault.title.replace(f"quant.{leaf}", f"{path}.{leaf}"))


def layer_faults(cell: Cell, names: Sequence[str], *, residual: bool) -> list[Diagnostic]:
    """Return what a cell says of layers that its network does not have.

    ``names`` are those of the network's layers; ``residual`` says whether its residual additions
    are known.
    """
    model, quant, faults = cell.recipe.model.name, cell.recipe.quant, []
    for glob in quant.overrides:
        if any(fnmatchcase(name, glob) for name in names):
            continue
        node = cell.nodes[KEY]
        here = node.entries[glob].key if glob in node.entries else node
        near = ", ".join(f"`{name}`" for name in three_closest(glob, names))
        label = f"matches no layer of {model}"
        faults.append(here.fault("R107", f"`{KEY}.{glob}`", label, f"the nearest are {near}"))
    if quant.residual_bits != FLOAT_BITS and not residual:
        key = "quant.residual_bits"
        label = f"{model} has no residual addition that is known here"
        help_ = "leave the key out: only those of ResNets and SqueezeNext are known"
        faults.append(cell.nodes[key].fault("R107", f"`{key}`", label, help_))
    return faults


def overrides_label(node: Node) -> str:
    """Return what a cell with these overrides is called: ``layer1-w8a8``, or by their hash."""
    parts = [
        _UNSAFE.sub("-", glob).strip("-") + _values(entry.value.plain())
        for glob, entry in node.entries.items()
    ]
    label = "-".join(part for part in parts if part)
    if not node.entries:
        return "uniform"
    if len(label) <= _LONGEST_LABEL:
        return label
    text = json.dumps(list(node.plain().items()))
    return f"overrides-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _values(values: Any) -> str:
    """Return ``-w8a8``, and any other key by its name and value."""
    if not isinstance(values, dict):
        return ""
    bits = [f"{k}{values[key]}" for k, key in _BITS if key in values]
    plain = {key: value for key, value in values.items() if not key.endswith("_bits")}
    others = [f"-{key}-{value}".lower() for key, value in plain.items()]
    return ("-" if bits else "") + "".join(bits) + _UNSAFE.sub("-", "".join(others))


_BITS = (("w", "weight_bits"), ("a", "act_bits"))


def _unknown(leaf: str) -> tuple[str, str]:
    """Return the label and the help of a key that no override has."""
    known = tuple(OverrideSection.model_fields)
    near = closest(leaf, known)
    help_ = f"did you mean `{near}`?" if near else f"keys allowed here: {', '.join(known)}"
    return "not a known key", NOT_KEYS.get(leaf, help_)
