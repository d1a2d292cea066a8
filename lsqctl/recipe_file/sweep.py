"""A sweep's cells: which keys vary, which values they take side by side, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from lsqctl.errors import Diagnostic
from lsqctl.recipe_file.keys import NON_KEY_HINTS, SWEEP_PARTS, SETTABLE_KEYS
from lsqctl.recipe_file.nodes import Entry, Node, preview
from lsqctl.recipe_file.spelling import closest_name

MAX_CELLS = 1_000
BAD_SWEEP = "bad sweep"

Assignment = dict[str, Node]
Axes = dict[str, tuple[Node, ...]]


def axes_of(sweep: Entry | None, diagnostics: list[Diagnostic]) -> tuple[Axes, Axes]:
    """Return the values of ``zip`` and ``grid`` by dotted key; see ``diagnostics``."""
    if sweep is None:
        return {}, {}
    count_before = len(diagnostics)
    parts = _parts(sweep, diagnostics)
    zipped, grid = (_axes(parts.get(part), part, diagnostics) for part in SWEEP_PARTS)
    for key in zipped.keys() & grid.keys():
        entry = parts["grid"].value.entries[key]
        hint = f"`zip` has it on line {parts['zip'].value.entries[key].key.position.line}"
        diagnostics.append(
            entry.key.diagnostic("R004", BAD_SWEEP, f"`{key}` is varied twice", hint)
        )
    _check_equal_lengths(zipped, diagnostics)
    if len(diagnostics) == count_before and not zipped and not grid:
        hint = "write `sweep: {grid: {seed: [0, 1, 2]}}`"
        diagnostics.append(sweep.key.diagnostic("R004", BAD_SWEEP, "nothing is varied here", hint))
    return zipped, grid


def assignments(
    zipped: Mapping[str, Sequence[Node]], grid: Mapping[str, Sequence[Node]]
) -> list[Assignment]:
    """Return zip × grid: the last key of the grid varies fastest, the zip slowest."""
    side_by_side: list[Assignment] = [
        dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)
    ] or [{}]
    combined = [dict(zip(grid, row, strict=True)) for row in product(*grid.values())]
    return [{**zip_row, **grid_row} for zip_row in side_by_side for grid_row in combined]


def cell_count(zipped: Mapping[str, Sequence[Node]], grid: Mapping[str, Sequence[Node]]) -> int:
    """Return how many cells there are, without making them."""
    total = min((len(values) for values in zipped.values()), default=1)
    for values in grid.values():
        total *= len(values)
    return total


def unknown_key_diagnostic(key: Node, where: str) -> Diagnostic:
    """Return the diagnostic of a dotted key that no recipe has."""
    name = str(key.value)
    title = f"unknown key `{name}` in {where}"
    if name.startswith(("model.weights.", "distill.teacher.")):
        short = name.rpartition(".")[0]
        return key.diagnostic("R101", title, "not a known key", f"set `{short}` to {{run: NAME}}")
    if name in ("name", "description", "abstract", "sweep"):
        return key.diagnostic("R101", title, "says what the recipe is called, not what it does")
    if (leaf := name.rpartition(".")[2]) in NON_KEY_HINTS:
        return key.diagnostic("R101", title, "not a known key", NON_KEY_HINTS[leaf])
    near = closest_name(name, SETTABLE_KEYS) or _nearest_by_leaf(name)
    hints = [f"did you mean `{near}`?"] if near else ["write it as `section.key`: `train.lr`"]
    return key.diagnostic("R101", title, "not a known key", *hints)


def _nearest_by_leaf(name: str) -> str | None:
    leaves = {key.rpartition(".")[2]: key for key in reversed(SETTABLE_KEYS)}
    near = closest_name(name.rpartition(".")[2], leaves)
    return leaves[near] if near else None


def _parts(sweep: Entry, diagnostics: list[Diagnostic]) -> dict[str, Entry]:
    if not isinstance(sweep.value.value, Mapping):
        message = f"must hold `zip` or `grid`, got {preview(sweep.value)}"
        diagnostics.append(sweep.value.diagnostic("R004", BAD_SWEEP, message))
    for name, entry in sweep.value.entries.items():
        if name not in SWEEP_PARTS:
            near = closest_name(name, SWEEP_PARTS)
            hints = [f"did you mean `{near}`?"] if near else ["a sweep holds `zip` and `grid`"]
            title = f"unknown key `sweep.{name}`"
            diagnostics.append(entry.key.diagnostic("R101", title, "not a known key", *hints))
    return {name: e for name, e in sweep.value.entries.items() if name in SWEEP_PARTS}


def _axes(part: Entry | None, name: str, diagnostics: list[Diagnostic]) -> Axes:
    if part is None:
        return {}
    if not isinstance(part.value.value, Mapping):
        message = f"must map dotted keys to lists, got {preview(part.value)}"
        diagnostics.append(
            part.value.diagnostic("R004", BAD_SWEEP, message, f"write `{name}: {{seed: [0, 1]}}`")
        )
    axes: Axes = {}
    for key, entry in part.value.entries.items():
        if key not in (*SETTABLE_KEYS, "extends"):
            diagnostics.append(unknown_key_diagnostic(entry.key, "a sweep"))
        elif not isinstance(entry.value.value, tuple):
            message = f"must be a list of values, got {preview(entry.value)}"
            hint = f"write [{entry.value.text or '…'}]"
            diagnostics.append(entry.value.diagnostic("R004", BAD_SWEEP, message, hint))
        elif not entry.value.value:
            diagnostics.append(entry.value.diagnostic("R004", BAD_SWEEP, "the list is empty"))
        else:
            axes[key] = entry.value.value
    return axes


def _check_equal_lengths(zipped: Axes, diagnostics: list[Diagnostic]) -> None:
    if len({len(values) for values in zipped.values()}) < 2:
        return
    for key, values in zipped.items():
        others = ", ".join(f"`{k}` has {len(v)}" for k, v in zipped.items() if k != key)
        message = f"`{key}` has {len(values)} values; {others}"
        hint = "lists under `zip` go side by side and are equally long; `grid` combines all"
        diagnostics.append(values[0].diagnostic("R004", BAD_SWEEP, message, hint))
