"""The `sweep` section: which keys vary, by lists or by draws, and when cells fall out.

A draw is a pure function of the recipe's seed, the key and the draw's number: a sweep of forty
draws begins with those of a sweep of twenty.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product

from lsqctl.errors import Diagnostic
from lsqctl.recipe_file.keys import (
    DISTRIBUTIONS,
    HALVING_KEYS,
    HALVING_METRICS,
    NON_KEY_HINTS,
    SETTABLE_KEYS,
    SWEEP_PARTS,
)
from lsqctl.recipe_file.loaded_recipe import Cell, Distribution
from lsqctl.recipe_file.nodes import Entry, Node, preview
from lsqctl.run import Halving
from lsqctl.text import closest_name

MAX_CELLS = 1_000
BAD_SWEEP = "bad sweep"

Assignment = dict[str, Node]
Axes = dict[str, tuple[Node, ...]]


@dataclass(frozen=True, slots=True)
class SweepAxes:
    """The values of each varied key, by dotted key.

    Values of ``zipped`` go side by side, those of ``drawn`` too (a draw a row); ``grid`` combines.
    ``space`` says what was drawn from.
    """

    zipped: Axes
    drawn: Axes
    grid: Axes
    space: Mapping[str, Distribution] = field(default_factory=dict)

    def varied(self, axes: Axes) -> SweepAxes:
        """Return the axes with those of the command line in the grid, instead of the file's."""
        zipped, drawn, grid = (
            {key: values for key, values in part.items() if key not in axes}
            for part in (self.zipped, self.drawn, self.grid)
        )
        return SweepAxes(zipped, drawn, {**grid, **axes}, self.space)

    @property
    def cell_count(self) -> int:
        """How many cells there are, counted without making them."""
        lengths = [min(map(len, part.values()), default=1) for part in (self.zipped, self.drawn)]
        return math.prod((*lengths, *map(len, self.grid.values())))

    def assignments(self) -> list[Assignment]:
        """Return zip × draws × grid: the last key of the grid varies fastest, the zip slowest."""
        combined = [dict(zip(self.grid, row, strict=True)) for row in product(*self.grid.values())]
        parts = (_rows(self.zipped), _rows(self.drawn), combined)
        return [{**zipped, **drawn, **varied} for zipped, drawn, varied in product(*parts)]


def _rows(axes: Axes) -> list[Assignment]:
    rows = zip(*axes.values(), strict=False)  # of unequal lengths there is a diagnostic
    return [dict(zip(axes, row, strict=True)) for row in rows] or [{}]


def axes_of(sweep: Entry | None, diagnostics: list[Diagnostic], *, seed: int = 0) -> SweepAxes:
    """Return what a `sweep` section varies; ``seed`` is that of its draws; see ``diagnostics``."""
    if sweep is None:
        return SweepAxes({}, {}, {})
    count_before = len(diagnostics)
    parts = _parts(sweep, diagnostics)
    zipped, grid = (_axes(parts.get(part), part, diagnostics) for part in ("zip", "grid"))
    space: dict[str, Distribution] = {}
    drawn = _drawn(sweep, parts, seed, space, diagnostics)
    for first, second in (("zip", "grid"), ("zip", "random"), ("grid", "random")):
        _check_varied_once(parts, first, second, diagnostics)
    _check_equal_lengths(zipped, diagnostics)
    if len(diagnostics) == count_before and not (zipped or drawn or grid):
        hint = "write `sweep: {grid: {seed: [0, 1, 2]}}`"
        diagnostics.append(sweep.key.diagnostic("R004", BAD_SWEEP, "nothing is varied here", hint))
    return SweepAxes(zipped, drawn, grid, space)


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
        message = f"must hold `zip`, `grid` or `random`, got {preview(sweep.value)}"
        diagnostics.append(sweep.value.diagnostic("R004", BAD_SWEEP, message))
    for name, entry in sweep.value.entries.items():
        if name not in SWEEP_PARTS:
            near = closest_name(name, SWEEP_PARTS)
            allowed = f"a sweep holds {', '.join(f'`{part}`' for part in SWEEP_PARTS)}"
            hints = [f"did you mean `{near}`?"] if near else [allowed]
            title = f"unknown key `sweep.{name}`"
            diagnostics.append(entry.key.diagnostic("R101", title, "not a known key", *hints))
    return {name: e for name, e in sweep.value.entries.items() if name in SWEEP_PARTS}


def _entries(part: Entry | None, form: str, diagnostics: list[Diagnostic]) -> Mapping[str, Entry]:
    """Return the entries of a part whose keys a sweep may vary; ``form`` is how it is written."""
    if part is None:
        return {}
    if not isinstance(part.value.value, Mapping):
        message = f"must map dotted keys to {form}, got {preview(part.value)}"
        hint = f"write `{part.key.value}: {{seed: [0, 1]}}`"
        diagnostics.append(part.value.diagnostic("R004", BAD_SWEEP, message, hint))
    known = {}
    for key, entry in _rejoined(part.value.entries).items():
        if key in (*SETTABLE_KEYS, "extends"):
            known[key] = entry
        else:
            diagnostics.append(unknown_key_diagnostic(entry.key, "a sweep"))
    return known


def _axes(part: Entry | None, name: str, diagnostics: list[Diagnostic]) -> Axes:
    axes: Axes = {}
    for key, entry in _entries(part, "lists", diagnostics).items():
        if not isinstance(entry.value.value, tuple):
            message = f"must be a list of values, got {preview(entry.value)}"
            hint = f"write [{entry.value.text or '…'}]"
            if DISTRIBUTION.fullmatch(entry.value.text):
                hint = f"a distribution stands under `random`, not under `{name}`"
            diagnostics.append(entry.value.diagnostic("R004", BAD_SWEEP, message, hint))
        elif not entry.value.value:
            diagnostics.append(entry.value.diagnostic("R004", BAD_SWEEP, "the list is empty"))
        else:
            axes[key] = entry.value.value
    return axes


def _check_varied_once(
    parts: Mapping[str, Entry], first: str, second: str, diagnostics: list[Diagnostic]
) -> None:
    if first not in parts or second not in parts:
        return
    ones, others = parts[first].value.entries, parts[second].value.entries
    for key in ones.keys() & others.keys():
        hint = f"`{first}` has it on line {ones[key].key.position.line}"
        message = f"`{key}` is varied twice"
        diagnostics.append(others[key].key.diagnostic("R004", BAD_SWEEP, message, hint))


def _check_equal_lengths(zipped: Axes, diagnostics: list[Diagnostic]) -> None:
    if len({len(values) for values in zipped.values()}) < 2:
        return
    for key, values in zipped.items():
        others = ", ".join(f"`{k}` has {len(v)}" for k, v in zipped.items() if k != key)
        message = f"`{key}` has {len(values)} values; {others}"
        hint = "lists under `zip` go side by side and are equally long; `grid` combines all"
        diagnostics.append(values[0].diagnostic("R004", BAD_SWEEP, message, hint))


DISTRIBUTION = re.compile(r"\s*(\w+)\s*\(([^(),]*),([^(),]*)\)\s*")
_HALF = re.compile(r"\s*\w+\s*\([^(),]*")


def _rejoined(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return entries with ``{train.lr: uniform(1, 2)}`` whole: YAML ends a value at the comma."""
    joined = dict(entries)
    for (key, entry), (rest, rest_entry) in pairwise(entries.items()):
        value = entry.value
        cut = isinstance(value.value, str) and not value.quoted and _HALF.fullmatch(value.text)
        if cut and rest.endswith(")") and rest_entry.value.value is None:
            text = f"{value.text}, {rest_entry.key.text or rest}"
            joined[key] = Entry(entry.key, replace(value, value=text, text=text))
            del joined[rest]
    return joined


def _drawn(
    sweep: Entry,
    parts: Mapping[str, Entry],
    seed: int,
    space: dict[str, Distribution],
    diagnostics: list[Diagnostic],
) -> Axes:
    """Return as many draws of each key of `random` as `runs` says; fill in ``space``."""
    count = _whole_number(parts.get("runs"), "runs", (1, MAX_CELLS), diagnostics)
    if ("random" in parts) is not ("runs" in parts):
        message = "`random` and `runs` go together"
        hint = "write `random: {train.lr: loguniform(1e-3, 1e-1)}` and `runs: 20`"
        diagnostics.append(sweep.key.diagnostic("R004", BAD_SWEEP, message, hint))
    drawn: Axes = {}
    for key, entry in _entries(parts.get("random"), "distributions", diagnostics).items():
        try:
            space[key] = _read_distribution(entry.value)
        except ValueError as error:
            hint = f"write one of {', '.join(DISTRIBUTIONS)}, or a list to choose from"
            diagnostics.append(entry.value.diagnostic("R004", BAD_SWEEP, str(error), hint))
        else:
            units = (_unit_draw(seed, key, number) for number in range(count or 0))
            drawn[key] = tuple(_draw(entry.value, space[key], unit) for unit in units)
    return drawn if count else {}


def _whole_number(
    entry: Entry | None, name: str, bounds: tuple[int, int], diagnostics: list[Diagnostic]
) -> int | None:
    if entry is None:
        return None
    value = entry.value.value
    if type(value) is int and bounds[0] <= value <= bounds[1]:
        return value
    message = f"`{name}` must be a whole number, {bounds[0]} to {bounds[1]:,}"
    text = f"{message}, got {preview(entry.value)}"
    diagnostics.append(entry.value.diagnostic("R004", BAD_SWEEP, text))
    return None


def _unit_draw(seed: int, key: str, number: int) -> float:
    """Return the draw of a number in [0, 1), of 53 bits."""
    digest = hashlib.sha256(f"{seed}\n{key}\n{number}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _read_distribution(node: Node) -> Distribution:
    """Return what a key is drawn from; raises ValueError."""
    if isinstance(node.value, tuple):
        if not node.value:
            raise ValueError("the list is empty")
        return Distribution("choice", choices=tuple(node.to_python()))
    match = DISTRIBUTION.fullmatch(node.text)
    if not match or match[1] not in _BOUNDS:
        raise ValueError(f"is no distribution: {preview(node)}")
    try:
        low, high = float(match[2]), float(match[3])
    except ValueError:
        raise ValueError(f"needs two numbers, got {preview(node)}") from None
    whole = low.is_integer() and high.is_integer() if match[1] == "integer" else True
    positive = low > 0 or match[1] != "loguniform"
    if not (math.isfinite(low) and math.isfinite(high) and low < high and whole and positive):
        raise ValueError(f"needs {_BOUNDS[match[1]]}, got {preview(node)}")
    return Distribution(match[1], low, high)


def _draw(node: Node, distribution: Distribution, unit: float) -> Node:
    """Return the node of a draw, which stands where the distribution is written."""
    if isinstance(node.value, tuple):
        return node.value[int(unit * len(node.value))]
    value = distribution.at(unit)
    return replace(node, value=value, text=str(value))


_BOUNDS = {
    "loguniform": "0 < low < high",
    "uniform": "low < high",
    "integer": "whole numbers, low < high",
}


def halving_of(
    sweep: Entry | None, cells: Sequence[Cell], diagnostics: list[Diagnostic]
) -> Halving | None:
    """Return how the cells of a sweep fall out, None where none do; see ``diagnostics``."""
    entry = sweep.value.entries.get("halving") if sweep else None
    if entry is None:
        return None
    if not isinstance(entry.value.value, Mapping):
        message = f"must hold `metric` and `factor`, got {preview(entry.value)}"
        hint = "write `halving: {metric: top1, factor: 3}`"
        diagnostics.append(entry.value.diagnostic("R004", BAD_SWEEP, message, hint))
        return None
    values = entry.value.entries
    count_before = len(diagnostics)
    for name, value in values.items():
        if name not in HALVING_KEYS:
            title = f"unknown key `sweep.halving.{name}`"
            near = closest_name(name, HALVING_KEYS) or ", ".join(HALVING_KEYS)
            hint = f"did you mean `{near}`?" if near in HALVING_KEYS else f"it holds {near}"
            diagnostics.append(value.key.diagnostic("R101", title, "not a known key", hint))
    metric = _halving_metric(values.get("metric"), diagnostics)
    factor = _whole_number(values.get("factor"), "factor", (2, 100), diagnostics) or 3
    first = _whole_number(values.get("first"), "first", (1, 100_000), diagnostics) or 1
    epochs = sorted({cell.recipe.train.epochs for cell in cells})
    rungs = rung_epochs(epochs[0], factor, first)
    message = ""
    if len(epochs) > 1:
        message = f"its cells train for {epochs[0]} to {epochs[-1]} epochs; it needs one number"
    elif not rungs:
        message = f"{epochs[0]} epochs have no rung at or after epoch {first}"
    if message:
        diagnostics.append(entry.key.diagnostic("R004", BAD_SWEEP, message))
    return None if len(diagnostics) > count_before else Halving(metric, factor, rungs)


def _halving_metric(entry: Entry | None, diagnostics: list[Diagnostic]) -> str:
    if entry is None:
        return HALVING_METRICS[0]
    metric = str(entry.value.value)
    if metric not in HALVING_METRICS:
        message = f"`metric` must be {' or '.join(HALVING_METRICS)}, got {preview(entry.value)}"
        diagnostics.append(entry.value.diagnostic("R004", BAD_SWEEP, message))
    return metric


def rung_epochs(epochs: int, factor: int, first: int) -> tuple[int, ...]:
    """Return the epochs at which cells fall out: all of them over each power of ``factor``.

    >>> rung_epochs(30, 3, 1)
    (1, 3, 10)
    """
    rungs = set()
    while (epochs := epochs // factor) >= first:
        rungs.add(epochs)
    return tuple(sorted(rungs))
