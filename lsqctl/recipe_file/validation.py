"""A tree of nodes to a complete Recipe, or to every diagnostic of it, each with its position."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from lsqctl.errors import Diagnostic
from lsqctl.quant.spec import FLOAT_BITS
from lsqctl.recipe import KeyConflict, OverrideSection, Recipe, cross_check, derived_defaults
from lsqctl.recipe_file.keys import FIELDS, NESTED, NON_KEY_HINTS, SECTIONS, TOP_KEYS
from lsqctl.recipe_file.loaded_recipe import Cell
from lsqctl.recipe_file.nodes import Entry, Node, Tree
from lsqctl.recipe_file.serialization import dump_scalar
from lsqctl.recipe_file.value_messages import MISSING_HINTS, bad_value_diagnostic
from lsqctl.run import JsonObject
from lsqctl.text import closest_name, plural_s, three_closest_names

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


OWN_NAME = "the file's path"  # where a name is from that nobody gave


class Validation(NamedTuple):
    """What became of a tree: a recipe, unless it has errors; and where each value is from."""

    recipe: Recipe | None
    diagnostics: list[Diagnostic]
    nodes: dict[str, Node]
    origins: dict[str, str]

    @property
    def explicit(self) -> JsonObject:
        """What the file and its bases say, by dotted key."""
        return {key: node.to_python() for key, node in self.nodes.items()}


def validate(tree: Tree, name: object, *, start: Node, name_node: Node | None) -> Validation:
    """Return the recipe that ``tree`` describes.  ``start`` is where the file begins."""
    unknown, misspelled = _unknown_keys(tree)
    nodes = {**_leaf_nodes(tree), **({"name": name_node} if name_node else {})}
    raw = _known_data(tree)
    derived = derived_defaults(raw)
    for key, (value, _) in derived.items():
        section, leaf = key.split(".")
        if isinstance(raw.setdefault(section, {}), dict):
            raw[section].setdefault(leaf, value)
    origins = dict.fromkeys(FIELDS, "default") | {"name": OWN_NAME}
    origins |= {key: origin for key, (_, origin) in derived.items()}
    origins |= {key: node.origin for key, node in nodes.items()}
    try:
        recipe = Recipe.model_validate({**raw, "name": name})
    except ValidationError as error:
        diagnostics = _pydantic_diagnostics(error, tree, nodes, start, misspelled)
        return Validation(None, unknown + diagnostics, nodes, origins)
    conflicts = [
        _conflict_diagnostic(conflict, recipe, nodes, start) for conflict in cross_check(recipe)
    ]
    return Validation(recipe, unknown + conflicts, nodes, origins)


def _known_data(tree: Tree) -> JsonObject:
    """Return the known keys as data; a null section is as if left out."""
    raw: JsonObject = {}
    for key, (_, value) in tree.items():
        if key not in TOP_KEYS or (key in SECTIONS and value.value is None and not value.quoted):
            continue
        data = value.to_python()
        if key in SECTIONS and isinstance(data, dict):
            data = {k: v for k, v in data.items() if k in SECTIONS[key].model_fields}
        raw[key] = data
    return raw


def _leaf_nodes(tree: Tree) -> dict[str, Node]:
    leaves: dict[str, Node] = {}
    for key, (_, value) in tree.items():
        if key in SECTIONS:
            section_nodes = {f"{key}.{leaf}": entry.value for leaf, entry in value.entries.items()}
            leaves |= {dotted: node for dotted, node in section_nodes.items() if dotted in FIELDS}
        elif key in FIELDS:
            leaves[key] = value
    return leaves


def _unknown_keys(tree: Tree) -> tuple[list[Diagnostic], set[str]]:
    """Return a diagnostic of each unknown key, and the known keys that were meant."""
    diagnostics: list[Diagnostic] = []
    suggested: set[str] = set()
    for key, entry in tree.items():
        if key not in TOP_KEYS:
            diagnostics.append(
                _unknown_key(entry, "", TOP_KEYS, siblings=tree, suggested=suggested)
            )
        for leaf, leaf_entry in entry.value.entries.items() if key in SECTIONS else ():
            allowed = tuple(SECTIONS[key].model_fields)
            if leaf not in allowed:
                siblings = entry.value.entries
                diagnostics.append(
                    _unknown_key(leaf_entry, key, allowed, siblings=siblings, suggested=suggested)
                )
    return diagnostics, suggested


def _unknown_key(
    entry: Entry,
    section: str,
    allowed: tuple[str, ...],
    *,
    siblings: Mapping[str, Entry],
    suggested: set[str],
) -> Diagnostic:
    key = str(entry.key.value)
    dotted = f"{section}.{key}" if section else key
    near = closest_name(key, allowed, taken=siblings)
    elsewhere = [name for name in FIELDS if name.rpartition(".")[2] == key]
    hints = []
    if key in NON_KEY_HINTS:
        hints.append(NON_KEY_HINTS[key])
    elif not section and "." in key and key in FIELDS:
        head, _, leaf = key.rpartition(".")
        hints.append(f"write `{head}: {{{leaf}: {entry.value.text or '…'}}}`")
        suggested.update((head, key))
    elif elsewhere:
        hints.append(
            f"`{key}` stands in " + " or ".join(_section_phrase(name) for name in elsewhere)
        )
    elif near:
        required = section in SECTIONS and SECTIONS[section].model_fields[near].is_required()
        missing = near not in siblings and (required or (not section and near in ("model", "data")))
        hints.append(f"did you mean `{near}`" + (", which is required?" if missing else "?"))
        suggested.add(f"{section}.{near}" if section else near)
    else:
        hints.append(f"keys allowed here: {', '.join(allowed)}")
    return entry.key.diagnostic("R101", f"unknown key `{dotted}`", "not a known key", *hints)


def _section_phrase(dotted: str) -> str:
    section = dotted.rpartition(".")[0]
    return f"the section `{section}`" if section else "the first column"


def _pydantic_diagnostics(
    error: ValidationError,
    tree: Tree,
    nodes: Mapping[str, Node],
    start: Node,
    misspelled: set[str],
) -> list[Diagnostic]:
    diagnostics, missing_keys = [], []
    errors = error.errors(include_url=False)
    for details in errors:
        loc = tuple(str(part) for part in details["loc"])
        key = ".".join(loc[:2])
        node = nodes.get(key) or (tree[loc[0]].value if loc[0] in tree else start)
        if details["type"] == "missing" and len(loc) <= 2:
            if key in misspelled or loc[0] in misspelled:
                continue
            if loc[0] in tree and len(loc) == 2:
                diagnostics.append(_missing_key(tree[loc[0]].key, key))
            else:
                missing_keys.append(key)
        elif _is_other_branch(loc, node):
            continue
        elif key == "quant.overrides" and len(loc) > 2:
            diagnostics.append(override_diagnostic(details, loc[2:], node))
        elif key in NESTED and len(loc) > 2:
            diagnostics.append(_nested_diagnostic(details, key, loc[2], node))
        else:
            diagnostics.append(bad_value_diagnostic(details, key, loc[2:], node))
    if missing_keys:
        diagnostics.append(_missing_keys(start, missing_keys))
    return diagnostics


def _is_other_branch(loc: tuple[str, ...], node: Node) -> bool:
    """Whether an error is of the alternative of a union that was not meant.

    So is a missing ``run`` where another key stands instead: that one is reported.
    """
    if len(loc) < 3 or loc[:2] == ("quant", "overrides") or ".".join(loc[:2]) in NESTED:
        return False
    if (loc[2] == "RunRef") != isinstance(node.value, Mapping):
        return True
    return loc[3:] == ("run",) and "run" not in node.entries and len(node.entries) > 0


def _nested_diagnostic(error: ErrorDetails, key: str, leaf: str, node: Node) -> Diagnostic:
    """Return the diagnostic of one pydantic error in a key that holds a section, at ``node``."""
    allowed = tuple(NESTED[key].model_fields)
    if error["type"] == "missing":
        return node.diagnostic("R102", f"missing key `{key}.{leaf}`", f"needs `{leaf}`")
    entry = node.entries[leaf]
    if error["type"] == "extra_forbidden":
        near = closest_name(leaf, allowed)
        hint = f"did you mean `{near}`?" if near else f"keys allowed here: {', '.join(allowed)}"
        title = f"unknown key `{key}.{leaf}`"
        return entry.key.diagnostic("R101", title, "not a known key", hint)
    return bad_value_diagnostic(error, f"{key}.{leaf}", (), entry.value)


def _missing_key(section: Node, key: str) -> Diagnostic:
    leaf = key.rpartition(".")[2]
    return section.diagnostic(
        "R102", f"missing key `{key}`", f"needs `{leaf}`", *MISSING_HINTS.get(key, ())
    )


def _missing_keys(start: Node, missing_keys: list[str]) -> Diagnostic:
    names = ", ".join(f"`{key}`" for key in missing_keys)
    title = f"missing key{plural_s(len(missing_keys))} {names}"
    hints = [hint for key in missing_keys for hint in MISSING_HINTS.get(key, ())]
    return start.diagnostic("R102", title, f"a recipe needs {names}", *hints)


def _conflict_diagnostic(
    conflict: KeyConflict, recipe: Recipe, nodes: Mapping[str, Node], start: Node
) -> Diagnostic:
    node = nodes.get(conflict.key) or nodes.get(conflict.other_key or "") or start
    if conflict.glob in node.entries:
        node = node.entries[conflict.glob].key
    hints = [conflict.hint]
    if conflict.other_key:
        value: object = recipe
        for part in conflict.other_key.split("."):
            value = getattr(value, part)
        other_node = nodes.get(conflict.other_key)
        origin = other_node.where if other_node else "default"
        hints.append(f"`{conflict.other_key}` is {dump_scalar(value)} ({origin})")
    return node.diagnostic("R105", f"`{conflict.key}` does not fit", conflict.message, *hints)


OVERRIDES_KEY = "quant.overrides"
_MAX_LABEL = 32
_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]+")


def override_diagnostic(error: ErrorDetails, inner: tuple[str, ...], node: Node) -> Diagnostic:
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


def conflict_diagnostic(conflict: KeyConflict, cell: Cell) -> Diagnostic:
    """Return the diagnostic of a conflict that a cell's network has shown."""
    return _conflict_diagnostic(conflict, cell.recipe, cell.nodes, cell.nodes["model.name"])


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


def _settings_label(values: object) -> str:
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
