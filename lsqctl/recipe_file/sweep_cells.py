"""A sweep's cells: what the command line varies and sets, and what each cell is called."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lsqctl.errors import Diagnostic, RecipeError
from lsqctl.quant.spec import FLOAT_BITS
from lsqctl.recipe import MAX_NAME_PART, Recipe
from lsqctl.recipe_file.keys import SETTABLE_KEYS
from lsqctl.recipe_file.nodes import (
    GRID_OPTION,
    NAME_OPTION,
    SEED_OPTION,
    SET_OPTION,
    Entry,
    Node,
    Source,
    Tree,
)
from lsqctl.recipe_file.sweep_axes import BAD_SWEEP, Assignment, Axes, unknown_key_diagnostic
from lsqctl.recipe_file.validation import overrides_label
from lsqctl.recipe_file.yaml_reader import compose
from lsqctl.text import sanitize

BIT_KEYS = ("quant.weight_bits", "quant.act_bits")
_UNSAFE_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+|\.{2,}")


@dataclass(frozen=True, slots=True)
class Changes:
    """What a command line makes of a recipe.

    ``sets`` are ``key=value`` texts applied last to every cell; ``seeds`` replace the file's, and
    so do ``grids``, ``key=value,value`` texts that make a sweep. ``name`` is what the recipe is
    called; None calls it as it is, with what ``sets`` say after it.
    """

    sets: Sequence[str] = ()
    seeds: Sequence[int] = ()
    grids: Sequence[str] = ()
    name: str | None = None


NO_CHANGES = Changes()


def parse_name(name: str) -> Node:
    """Return a name that was given by an option; whether a recipe may have it is not checked."""
    return replace(_option_node(NAME_OPTION, name, sanitize(name)), text=name, quoted=True)


def parse_sets(sets: Sequence[str]) -> tuple[Assignment, list[Diagnostic]]:
    """Return ``key=value`` texts as nodes; of two for one key, the later holds."""
    changes: Assignment = {}
    diagnostics: list[Diagnostic] = []
    for text in sets:
        try:
            key, value, value_diagnostics = _parse_option(text, SET_OPTION)
        except RecipeError as error:
            diagnostics.extend(error.diagnostics)
            continue
        diagnostics.extend(value_diagnostics)
        if key.value in SETTABLE_KEYS:
            changes[str(key.value)] = value
        else:
            diagnostics.append(unknown_key_diagnostic(key, SET_OPTION))
    return changes, diagnostics


def parse_grids(grids: Sequence[str]) -> tuple[Axes, list[Diagnostic]]:
    """Return ``key=value,value`` texts as axes of a grid, one a key."""
    axes: Axes = {}
    diagnostics: list[Diagnostic] = []
    for text in grids:
        name, equals, values = text.partition("=")
        if equals and values.strip() and not values.lstrip().startswith("["):
            values = f"[{values}]"
        try:
            key, value, value_diagnostics = _parse_option(f"{name}{equals}{values}", GRID_OPTION)
        except RecipeError as error:
            diagnostics.extend(error.diagnostics)
            continue
        diagnostics.extend(value_diagnostics)
        if key.value not in SETTABLE_KEYS:
            diagnostics.append(unknown_key_diagnostic(key, GRID_OPTION))
        elif key.value in axes:
            hint = f"write all of its values after one {GRID_OPTION}"
            message = f"`{key.value}` is varied twice"
            diagnostics.append(key.diagnostic("R004", BAD_SWEEP, message, hint))
        elif isinstance(value.value, tuple) and value.value:
            axes[str(key.value)] = value.value
        else:
            diagnostics.append(value.diagnostic("R103", f"bad {GRID_OPTION}", "has no value"))
    return axes, diagnostics


def varied_by_both(axes: Axes, seeds: Sequence[int]) -> list[Diagnostic]:
    """Return the diagnostic of a seed that ``--grid`` and ``--seed`` vary."""
    if "seed" not in axes or not seeds:
        return []
    message = f"`seed` is varied here and by {SEED_OPTION}"
    return [axes["seed"][0].diagnostic("R004", BAD_SWEEP, message, "leave one out")]


def varied_and_set(axes: Axes, fixed: Assignment) -> list[Diagnostic]:
    """Return the diagnostics of keys that ``--grid`` varies and ``--set`` fixes."""
    return [
        axes[key][0].diagnostic(
            "R004", BAD_SWEEP, f"`{key}` is varied here and fixed by {SET_OPTION}", "leave one out"
        )
        for key in axes
        if key in fixed
    ]


def _parse_option(text: str, option: str) -> tuple[Node, Node, list[Diagnostic]]:
    name, equals, value_text = text.partition("=")
    key = _option_node(option, name, text)
    if not equals or not value_text.strip():
        colon = ":" in name and not equals
        written = name.replace(":", "=", 1) if colon else f"{name or 'KEY'}=VALUE"
        hint = f"write {option} {written}"
        raise RecipeError([key.diagnostic("R103", f"bad {option}", "has no value", hint)])
    if "\n" in value_text or not value_text.isprintable():
        raise RecipeError([key.diagnostic("R103", f"bad {option}", "must be one printable line")])
    value_column = len(option) + 2 + len(name)
    value, diagnostics = compose(value_text, key.source, column_offset=value_column)
    if value is None:
        raise RecipeError([key.diagnostic("R103", f"bad {option}", "has no value")])
    return key, value, diagnostics


def _option_node(option: str, value: str, text: str) -> Node:
    """Return what an option's text begins with, as a node that is not read as YAML."""
    source = Source(option, (f"{option} {text}",), option)
    node, _ = compose("x", source, column_offset=len(option) + 1)
    assert node is not None
    end_column = node.position.column + max(1, len(value))
    return replace(node, position=replace(node.position, end_column=end_column), value=value)


def seed_nodes(seeds: Iterable[int]) -> tuple[Node, ...]:
    """Return the values of ``--seed`` as nodes, each once."""
    return tuple(
        replace(_option_node(SEED_OPTION, str(seed), str(seed)), value=seed, text=str(seed))
        for seed in dict.fromkeys(seeds)
    )


def apply_changes(tree: Tree, changes: Mapping[str, Node]) -> Tree:
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
        section_entry = changed.get(section)
        if section_entry is None or section_entry.value.value is None:
            section_entry = Entry(replace(node, value=section), replace(node, value={}))
        if isinstance(section_entry.value.value, Mapping):
            entries = {**section_entry.value.entries, leaf: Entry(key, node)}
            changed[section] = Entry(section_entry.key, replace(section_entry.value, value=entries))
    return changed


def cell_labels(
    changes: Sequence[Mapping[str, Node]], recipes: Sequence[Recipe], *, named: bool
) -> list[str]:
    """Return what each cell is called after its base: ``w4a4``, ``w4a4-lr0.01``, or nothing.

    With ``named`` the base has a name that stands for what ``--set`` says.
    """
    if named:
        changes = [_varied(change) for change in changes]
    bits = [_bits_label(recipe) for recipe in recipes]
    bases = [str(change["extends"].value) if "extends" in change else "" for change in changes]
    bits_identify_base = all(
        len({base for base, b in zip(bases, bits, strict=True) if b == bits_label}) == 1
        for bits_label in bits
    )
    suffixes = []
    for change, base, bits_part in zip(changes, bases, bits, strict=True):
        parts = [bits_part] if {"extends", *BIT_KEYS} & change.keys() else []
        if base and not bits_identify_base:
            parts.append(_sanitize(base.rpartition("/")[2].removesuffix(".yaml")))
        others = (k for k in change if k not in ("extends", "seed", *BIT_KEYS))
        suffixes.append("-".join([*parts, *(_label_part(key, change[key]) for key in others)]))
    return suffixes


def cell_name(base: str, label: str) -> str:
    """Return what a cell's run is called: the base and the label, shortened to what a name may be.

    A name that is too long loses the end of its base, or else of its label, and gets six letters
    of the digest of the whole, which tell it from others that are cut alike.

    >>> cell_name("paper/lsq", "w4a4")
    'paper/lsq-w4a4'
    """
    name = f"{base}-{label}" if label else base
    folder, slash, last = base.rpartition("/")
    if len(name) - len(folder + slash) <= MAX_NAME_PART:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    room = MAX_NAME_PART - len(f"-{digest}-{label}")
    if room > 0 and (kept := last[:room].rstrip("-._")):
        return f"{folder}{slash}{kept}-{digest}-{label}"
    kept = f"{last}-{label}"[: MAX_NAME_PART - len(f"-{digest}")].rstrip("-._")
    return f"{folder}{slash}{kept}-{digest}"


def describe_cell(number: int, total: int, change: Mapping[str, Node]) -> str:
    """Return what a diagnostic says of the cell it is in; nothing where there is only one."""
    values = ", ".join(f"{key}={_value_text(node)}" for key, node in _varied(change).items())
    return f"cell {number} of {total}: {values}" if total > 1 else ""


def _varied(change: Mapping[str, Node]) -> dict[str, Node]:
    """Return what a sweep changes in a cell, without what is set in all of them."""
    return {key: node for key, node in change.items() if node.source.file != SET_OPTION}


def duplicates(names: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the (name, seed) pairs that occur more than once."""
    return [pair for pair, count in Counter(names).items() if count > 1]


def _bits_label(recipe: Recipe) -> str:
    weight, act = recipe.quant.weight_bits, recipe.quant.act_bits
    return "fp32" if weight == act == FLOAT_BITS else f"w{weight}a{act}"


def _label_part(key: str, node: Node) -> str:
    leaf = key.rpartition(".")[2].replace("_", "")
    if key == "quant.overrides":
        return overrides_label(node)
    return ("" if leaf == "name" else leaf) + _sanitize(_value_text(node).rpartition("/")[2])


def _value_text(node: Node) -> str:
    plain = node.to_python()
    if isinstance(plain, dict):
        return ",".join(f"{key}={value}" for key, value in plain.items())
    if isinstance(plain, bool) or plain is None:
        return {True: "true", False: "false", None: "null"}[plain]
    return str(plain)


def _sanitize(text: str) -> str:
    return _UNSAFE_CHARACTERS.sub("-", text).strip("-.")
