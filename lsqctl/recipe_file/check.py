"""A tree of nodes to a complete Recipe, or to every fault in it, each with its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from lsqctl.errors import Diagnostic
from lsqctl.recipe import Problem, Recipe, check_together, derived_defaults
from lsqctl.recipe_file.keys import FIELDS, NOT_KEYS, SECTIONS, TOP_KEYS
from lsqctl.recipe_file.nodes import Entry, Node, Tree
from lsqctl.recipe_file.overrides import override_fault
from lsqctl.recipe_file.sentences import MISSING, bad_value
from lsqctl.recipe_file.spelling import closest
from lsqctl.recipe_file.writing import scalar


class Checked(NamedTuple):
    """What became of a tree: a recipe, unless there are faults; and where each value is from."""

    recipe: Recipe | None
    faults: list[Diagnostic]
    nodes: dict[str, Node]
    origins: dict[str, str]

    @property
    def given(self) -> dict[str, Any]:
        """What the file and its bases say, by dotted key."""
        return {key: node.plain() for key, node in self.nodes.items()}


def check(tree: Tree, name: str, *, start: Node, name_node: Node | None) -> Checked:
    """Return the recipe that ``tree`` describes.  ``start`` is where the file begins."""
    unknown, misspelled = _unknown_keys(tree)
    nodes = {**_leaves(tree), **({"name": name_node} if name_node else {})}
    raw = _plain(tree)
    derived = derived_defaults(raw)
    for key, (value, _) in derived.items():
        section, leaf = key.split(".")
        if isinstance(raw.setdefault(section, {}), dict):
            raw[section].setdefault(leaf, value)
    origins = dict.fromkeys(FIELDS, "default") | {"name": "the file's path"}
    origins |= {key: origin for key, (_, origin) in derived.items()}
    origins |= {key: node.origin for key, node in nodes.items()}
    try:
        recipe = Recipe.model_validate({**raw, "name": name})
    except ValidationError as error:
        faults = _faults(error, tree, nodes, start, misspelled)
        return Checked(None, unknown + faults, nodes, origins)
    together = [_problem(problem, recipe, nodes, start) for problem in check_together(recipe)]
    return Checked(recipe, unknown + together, nodes, origins)


def _plain(tree: Tree) -> dict[str, Any]:
    """Return the known keys as data; a null section is as if left out."""
    raw: dict[str, Any] = {}
    for key, (_, value) in tree.items():
        if key not in TOP_KEYS or (key in SECTIONS and value.value is None and not value.quoted):
            continue
        data = value.plain()
        if key in SECTIONS and isinstance(data, dict):
            data = {k: v for k, v in data.items() if k in SECTIONS[key].model_fields}
        raw[key] = data
    return raw


def _leaves(tree: Tree) -> dict[str, Node]:
    leaves: dict[str, Node] = {}
    for key, (_, value) in tree.items():
        if key in SECTIONS:
            found = {f"{key}.{leaf}": entry.value for leaf, entry in value.entries.items()}
            leaves |= {dotted: node for dotted, node in found.items() if dotted in FIELDS}
        elif key in FIELDS:
            leaves[key] = value
    return leaves


def _unknown_keys(tree: Tree) -> tuple[list[Diagnostic], set[str]]:
    """Return the faults of unknown keys, and the known keys that they meant."""
    faults: list[Diagnostic] = []
    meant: set[str] = set()
    for key, entry in tree.items():
        if key not in TOP_KEYS:
            faults.append(_unknown(entry, "", TOP_KEYS, beside=tree, meant=meant))
        for leaf, below in entry.value.entries.items() if key in SECTIONS else ():
            known = tuple(SECTIONS[key].model_fields)
            if leaf not in known:
                beside = entry.value.entries
                faults.append(_unknown(below, key, known, beside=beside, meant=meant))
    return faults, meant


def _unknown(
    entry: Entry,
    section: str,
    known: tuple[str, ...],
    *,
    beside: Mapping[str, Entry],
    meant: set[str],
) -> Diagnostic:
    key = str(entry.key.value)
    dotted = f"{section}.{key}" if section else key
    near = closest(key, known, taken=beside)
    elsewhere = [name for name in FIELDS if name.rpartition(".")[2] == key]
    helps = []
    if key in NOT_KEYS:
        helps.append(NOT_KEYS[key])
    elif elsewhere:
        helps.append(f"`{key}` stands in " + " or ".join(_place(name) for name in elsewhere))
    elif near:
        required = section in SECTIONS and SECTIONS[section].model_fields[near].is_required()
        missing = near not in beside and (required or (not section and near in ("model", "data")))
        helps.append(f"did you mean `{near}`" + (", which is required?" if missing else "?"))
        meant.add(f"{section}.{near}" if section else near)
    else:
        helps.append(f"keys allowed here: {', '.join(known)}")
    return entry.key.fault("R101", f"unknown key `{dotted}`", "not a known key", *helps)


def _place(dotted: str) -> str:
    section = dotted.rpartition(".")[0]
    return f"the section `{section}`" if section else "the first column"


def _faults(
    error: ValidationError,
    tree: Tree,
    nodes: Mapping[str, Node],
    start: Node,
    misspelled: set[str],
) -> list[Diagnostic]:
    faults, absent = [], []
    errors = error.errors(include_url=False)
    for one in errors:
        loc = tuple(str(part) for part in one["loc"])
        key = ".".join(loc[:2])
        node = nodes.get(key) or (tree[loc[0]].value if loc[0] in tree else start)
        if one["type"] == "missing" and len(loc) <= 2:
            if key in misspelled or loc[0] in misspelled:
                continue
            if loc[0] in tree and len(loc) == 2:
                faults.append(_missing(tree[loc[0]].key, key))
            else:
                absent.append(key)
        elif _is_other_branch(loc, node):
            continue
        elif key == "quant.overrides" and len(loc) > 2:
            faults.append(override_fault(one, loc[2:], node))
        else:
            faults.append(bad_value(one, key, loc[2:], node))
    if absent:
        faults.append(_all_missing(start, absent))
    return faults


def _is_other_branch(loc: tuple[str, ...], node: Node) -> bool:
    """Whether an error is of the alternative of a union that was not meant.

    So is a missing ``run`` where another key stands instead: that one is reported.
    """
    if len(loc) < 3 or loc[:2] == ("quant", "overrides"):
        return False
    if (loc[2] == "RunRef") != isinstance(node.value, Mapping):
        return True
    return loc[3:] == ("run",) and "run" not in node.entries and len(node.entries) > 0


def _missing(section: Node, key: str) -> Diagnostic:
    leaf = key.rpartition(".")[2]
    return section.fault("R102", f"missing key `{key}`", f"needs `{leaf}`", *MISSING.get(key, ()))


def _all_missing(start: Node, absent: list[str]) -> Diagnostic:
    names = ", ".join(f"`{key}`" for key in absent)
    title = f"missing key{'s' * (len(absent) > 1)} {names}"
    helps = [help_ for key in absent for help_ in MISSING.get(key, ())]
    return start.fault("R102", title, f"a recipe needs {names}", *helps)


def _problem(
    problem: Problem, recipe: Recipe, nodes: Mapping[str, Node], start: Node
) -> Diagnostic:
    node = nodes.get(problem.key) or nodes.get(problem.other or "") or start
    if problem.glob in node.entries:
        node = node.entries[problem.glob].key
    helps = [problem.help]
    if problem.other:
        value: Any = recipe
        for part in problem.other.split("."):
            value = getattr(value, part)
        other = nodes.get(problem.other)
        helps.append(
            f"`{problem.other}` is {scalar(value)} ({_where(other) if other else 'default'})"
        )
    return node.fault("R105", f"`{problem.key}` does not fit", problem.label, *helps)


def _where(node: Node) -> str:
    return f"{node.source.file}:{node.position.line}:{node.position.column}"
