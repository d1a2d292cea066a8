"""Cells: what a sweep, ``--set`` and ``--seed`` change in a tree, and what each cell is called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lsqctl.errors import Diagnostic, RecipeError
from lsqctl.quant.spec import FLOAT_BITS
from lsqctl.recipe import Recipe
from lsqctl.recipe_file.compose import compose
from lsqctl.recipe_file.keys import VARIABLE
from lsqctl.recipe_file.nodes import SEED, SET, Entry, Node, Source, Tree
from lsqctl.recipe_file.overrides import overrides_label
from lsqctl.recipe_file.sweep import Assignment, unknown_key

BIT_KEYS = ("quant.weight_bits", "quant.act_bits")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+|\.{2,}")


def parse_sets(sets: Sequence[str]) -> tuple[Assignment, list[Diagnostic]]:
    """Return ``key=value`` texts as nodes; of two for one key, the later holds."""
    changes: Assignment = {}
    faults: list[Diagnostic] = []
    for text in sets:
        try:
            key, value, found = _parse_set(text)
        except RecipeError as error:
            faults.extend(error.diagnostics)
            continue
        faults.extend(found)
        if key.value in VARIABLE:
            changes[str(key.value)] = value
        else:
            faults.append(unknown_key(key, SET))
    return changes, faults


def _parse_set(text: str) -> tuple[Node, Node, list[Diagnostic]]:
    name, equals, written = text.partition("=")
    source = Source(SET, (f"{SET} {text}",), SET)
    key_root, _ = compose("x", source, shift=len(SET) + 1)
    assert key_root is not None
    stop = key_root.position.column + max(1, len(name))
    key = replace(key_root, position=replace(key_root.position, end_column=stop), value=name)
    if not equals or not written.strip():
        label = "has no value"
        raise RecipeError([key.fault("R103", f"bad {SET}", label, f"write {SET} {name}=VALUE")])
    if "\n" in written or not written.isprintable():
        raise RecipeError([key.fault("R103", f"bad {SET}", "must be one printable line")])
    value, faults = compose(written, source, shift=len(SET) + 2 + len(name))
    if value is None:
        raise RecipeError([key.fault("R103", f"bad {SET}", "has no value")])
    return key, value, faults


def seed_nodes(seeds: Iterable[int]) -> tuple[Node, ...]:
    """Return the values of ``--seed`` as nodes, each once."""
    return tuple(
        replace(node, value=seed, text=str(seed))
        for seed in dict.fromkeys(seeds)
        if (node := compose(str(seed), Source(SEED, (f"{SEED} {seed}",), SEED), shift=7)[0])
    )


def apply(tree: Tree, changes: Mapping[str, Node]) -> Tree:
    """Return ``tree`` with the values of dotted keys replaced."""
    changed = dict(tree)
    for dotted, node in changes.items():
        section, _, leaf = dotted.rpartition(".")
        if dotted == "extends":
            continue
        key = replace(node, value=leaf)
        if not section:
            changed[leaf] = Entry(key, node)
            continue
        old = changed.get(section)
        if old is None or old.value.value is None:
            old = Entry(replace(node, value=section), replace(node, value={}))
        if isinstance(old.value.value, Mapping):
            entries = {**old.value.entries, leaf: Entry(key, node)}
            changed[section] = Entry(old.key, replace(old.value, value=entries))
    return changed


def labels(changes: Sequence[Mapping[str, Node]], recipes: Sequence[Recipe]) -> list[str]:
    """Return what each cell is called after its base: ``w4a4``, ``w4a4-lr0.01``, or nothing."""
    bits = [_bits(recipe) for recipe in recipes]
    bases = [str(change["extends"].value) if "extends" in change else "" for change in changes]
    told_apart = all(
        len({base for base, b in zip(bases, bits, strict=True) if b == one}) == 1 for one in bits
    )
    made = []
    for change, base, width in zip(changes, bases, bits, strict=True):
        parts = [width] if {"extends", *BIT_KEYS} & change.keys() else []
        if base and not told_apart:
            parts.append(_safe(base.rpartition("/")[2].removesuffix(".yaml")))
        others = (k for k in change if k not in ("extends", "seed", *BIT_KEYS))
        made.append("-".join([*parts, *(_part(key, change[key]) for key in others)]))
    return made


def tag(number: int, total: int, change: Mapping[str, Node]) -> str:
    """Return what a fault says of the cell it is in; nothing where there is only one."""
    swept = {key: node for key, node in change.items() if node.source.file != SET}
    values = ", ".join(f"{key}={_written(node)}" for key, node in swept.items())
    return f"cell {number} of {total}: {values}" if total > 1 else ""


def clashes(names: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the (name, seed) pairs that occur more than once."""
    return [pair for pair, times in Counter(names).items() if times > 1]


def _bits(recipe: Recipe) -> str:
    weight, act = recipe.quant.weight_bits, recipe.quant.act_bits
    return "fp32" if weight == act == FLOAT_BITS else f"w{weight}a{act}"


def _part(key: str, node: Node) -> str:
    leaf = key.rpartition(".")[2].replace("_", "")
    if key == "quant.overrides":
        return overrides_label(node)
    return ("" if leaf == "name" else leaf) + _safe(_written(node).rpartition("/")[2])


def _written(node: Node) -> str:
    plain = node.plain()
    if isinstance(plain, dict):
        return ",".join(f"{key}={value}" for key, value in plain.items())
    if isinstance(plain, bool) or plain is None:
        return {True: "true", False: "false", None: "null"}[plain]
    return str(plain)


def _safe(text: str) -> str:
    return _UNSAFE.sub("-", text).strip("-.")
