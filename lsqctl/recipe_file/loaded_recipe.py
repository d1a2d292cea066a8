"""What a recipe file is once it has been read and found to be valid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lsqctl.errors import Diagnostic
from lsqctl.recipe import Recipe
from lsqctl.recipe_file.nodes import Node
from lsqctl.run import Halving


@dataclass(frozen=True, slots=True)
class Cell:
    """One run's recipe. ``label`` is what its name adds to the file's; empty if nothing.

    ``origins`` says by dotted key where a value is from: ``recipes/x.yaml:12``,
    ``base paper/w4a4``, ``default``, ``default of cifar10``, ``--set`` or ``--seed``; ``nodes``
    holds the position of what is written, for errors that only the network shows. ``base`` is what
    it extends, as ``load`` takes it.
    """

    recipe: Recipe
    label: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict, repr=False, compare=False)
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a key of a sweep's `random` is drawn from: ``low`` to ``high``, or ``choices``."""

    kind: str  # uniform, loguniform, integer or choice
    low: float = 0.0
    high: float = 0.0
    choices: tuple[object, ...] = ()

    def at(self, unit: float) -> float:
        """Return the number at ``unit``, in [0, 1), of an interval."""
        if self.kind == "integer":
            return int(self.low) + int(unit * (int(self.high) - int(self.low) + 1))
        if self.kind == "loguniform":
            low, high = math.log(self.low), math.log(self.high)
            return self.rounded(math.exp(low + unit * (high - low)))
        return self.rounded(self.low + unit * (self.high - self.low))

    def rounded(self, value: float) -> float:
        """Return four digits of a number, so that a cell's name can say the whole of it."""
        if self.kind == "integer":
            return int(value)
        return min(max(float(f"{value:.4g}"), self.low), self.high)

    def has(self, value: object) -> bool:
        """Return whether it could have been drawn."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe file that was found to be valid.

    ``cells`` is empty for an abstract recipe; ``explicit`` is what the file and its bases say, by
    dotted key, and ``origins`` where; ``warnings`` are likely mistakes, with codes W001 and on.
    ``halving`` says how a sweep's cells fall out before they have been trained to the end, and
    ``space`` what its `random` draws from, by dotted key.
    """

    name: str
    path: Path
    abstract: bool
    is_sweep: bool
    cells: tuple[Cell, ...]
    description: str = ""
    explicit: Mapping[str, object] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[Diagnostic, ...] = ()
    base: str | None = None
    halving: Halving | None = None
    space: Mapping[str, Distribution] = field(default_factory=dict)
