"""A sweep's cells: which keys vary, which values they take side by side, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from lsqctl.errors import Diagnostic
from lsqctl.recipe_file.keys import NOT_KEYS, PATHS_OF_SWEEP, VARIABLE
from lsqctl.recipe_file.nodes import Entry, Node, shown
from lsqctl.recipe_file.spelling import closest

MAX_CELLS = 1_000
TITLE = "bad sweep"

Assignment = dict[str, Node]
Axes = dict[str, tuple[Node, ...]]


def axes_of(sweep: Entry | None, faults: list[Diagnostic]) -> tuple[Axes, Axes]:
    """Return the values of ``zip`` and ``grid`` by dotted key; what is wrong goes to ``faults``."""
    if sweep is None:
        return {}, {}
    before = len(faults)
    parts = _parts(sweep, faults)
    zipped, grid = (_axes(parts.get(part), part, faults) for part in PATHS_OF_SWEEP)
    for key in zipped.keys() & grid.keys():
        entry = parts["grid"].value.entries[key]
        help_ = f"`zip` has it on line {parts['zip'].value.entries[key].key.position.line}"
        faults.append(entry.key.fault("R004", TITLE, f"`{key}` is varied twice", help_))
    _same_lengths(zipped, faults)
    if len(faults) == before and not zipped and not grid:
        help_ = "write `sweep: {grid: {seed: [0, 1, 2]}}`"
        faults.append(sweep.key.fault("R004", TITLE, "nothing is varied here", help_))
    return zipped, grid


def assignments(
    zipped: Mapping[str, Sequence[Node]], grid: Mapping[str, Sequence[Node]]
) -> list[Assignment]:
    """Return zip × grid: the last key of the grid varies fastest, the zip slowest."""
    side_by_side: list[Assignment] = [
        dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)
    ] or [{}]
    combined = [dict(zip(grid, row, strict=True)) for row in product(*grid.values())]
    return [{**one, **other} for one in side_by_side for other in combined]


def count(zipped: Mapping[str, Sequence[Node]], grid: Mapping[str, Sequence[Node]]) -> int:
    """Return how many cells there are, without making them."""
    total = min((len(values) for values in zipped.values()), default=1)
    for values in grid.values():
        total *= len(values)
    return total


def unknown_key(key: Node, where: str) -> Diagnostic:
    """Return the fault of a dotted key that no recipe has."""
    name = str(key.value)
    title = f"unknown key `{name}` in {where}"
    if name.startswith(("model.weights.", "distill.teacher.")):
        short = name.rpartition(".")[0]
        return key.fault("R101", title, "not a known key", f"set `{short}` to {{run: NAME}}")
    if name in ("name", "description", "abstract", "sweep"):
        return key.fault("R101", title, "says what the recipe is called, not what it does")
    if (leaf := name.rpartition(".")[2]) in NOT_KEYS:
        return key.fault("R101", title, "not a known key", NOT_KEYS[leaf])
    near = closest(name, VARIABLE) or _by_leaf(name)
    helps = [f"did you mean `{near}`?"] if near else ["write it as `section.key`: `train.lr`"]
    return key.fault("R101", title, "not a known key", *helps)


def _by_leaf(name: str) -> str | None:
    leaves = {key.rpartition(".")[2]: key for key in reversed(VARIABLE)}
    near = closest(name.rpartition(".")[2], leaves)
    return leaves[near] if near else None


def _parts(sweep: Entry, faults: list[Diagnostic]) -> dict[str, Entry]:
    if not isinstance(sweep.value.value, Mapping):
        label = f"must hold `zip` or `grid`, got {shown(sweep.value)}"
        faults.append(sweep.value.fault("R004", TITLE, label))
    for name, entry in sweep.value.entries.items():
        if name not in PATHS_OF_SWEEP:
            near = closest(name, PATHS_OF_SWEEP)
            helps = [f"did you mean `{near}`?"] if near else ["a sweep holds `zip` and `grid`"]
            title = f"unknown key `sweep.{name}`"
            faults.append(entry.key.fault("R101", title, "not a known key", *helps))
    return {name: e for name, e in sweep.value.entries.items() if name in PATHS_OF_SWEEP}


def _axes(part: Entry | None, name: str, faults: list[Diagnostic]) -> Axes:
    if part is None:
        return {}
    if not isinstance(part.value.value, Mapping):
        label = f"must map dotted keys to lists, got {shown(part.value)}"
        faults.append(part.value.fault("R004", TITLE, label, f"write `{name}: {{seed: [0, 1]}}`"))
    axes: Axes = {}
    for key, entry in part.value.entries.items():
        if key not in (*VARIABLE, "extends"):
            faults.append(unknown_key(entry.key, "a sweep"))
        elif not isinstance(entry.value.value, tuple):
            label = f"must be a list of values, got {shown(entry.value)}"
            help_ = f"write [{entry.value.text or '…'}]"
            faults.append(entry.value.fault("R004", TITLE, label, help_))
        elif not entry.value.value:
            faults.append(entry.value.fault("R004", TITLE, "the list is empty"))
        else:
            axes[key] = entry.value.value
    return axes


def _same_lengths(zipped: Axes, faults: list[Diagnostic]) -> None:
    if len({len(values) for values in zipped.values()}) < 2:
        return
    for key, values in zipped.items():
        others = ", ".join(f"`{k}` has {len(v)}" for k, v in zipped.items() if k != key)
        label = f"`{key}` has {len(values)} values; {others}"
        help_ = "lists under `zip` go side by side and are equally long; `grid` combines all"
        faults.append(values[0].fault("R004", TITLE, label, help_))
