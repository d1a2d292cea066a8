"""The board as a value: entries in the order of the CSV contract, tables by dataset, counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the board: a group of runs (a recipe without its seed), or a published row.

    The fields are the columns of the CSV contract, in order; ``columns`` says what each means.
    None is unknown, or does not apply.
    """

    rank: int | None
    model: str
    arch: str | None
    dataset: str
    split: str | None
    method: str | None
    weight_bits: int
    act_bits: int
    first_last_bits: str | None
    granularity: str | None
    top1_mean: float
    top1_std: float | None
    top1_ci95_lo: float | None
    top1_ci95_hi: float | None
    n_seeds: int | None
    seeds: str | None
    top1_best: float | None
    best_run: str | None
    top5_mean: float | None
    fp32_top1: float | None
    delta_fp32: float | None
    eval_n: int | None
    params: int | None
    size_bytes: int | None
    gmacs: float | None
    gbops: float | None
    pareto_optimal: bool | None
    epochs: int | None
    train_gpu_h: float | None
    peak_mem_bytes: int | None
    device: str | None
    torch: str | None
    precision: str | None
    deterministic: str | None
    state: str | None
    n_failed: int | None
    verified: bool | None
    checkpoint_sha256: str | None
    checkpoint_path: str | None
    recipe_sha256: str | None
    code_commit: str | None
    code_dirty: bool | None
    created_at: str | None
    notes: str | None
    origin: str
    source_kind: str | None
    source_url: str | None
    selected_on_test: bool | None
    top1_last_epoch: float | None
    top1_best_epoch: float | None
    suspect: bool | None

    @property
    def is_local(self) -> bool:
        """Whether this was measured here, rather than published."""
        return self.origin == "own"

    @property
    def is_full_precision(self) -> bool:
        """Whether nothing is quantized: such a row is shown, and not ranked."""
        return self.weight_bits == self.act_bits == 32

    @property
    def interval_low(self) -> float:
        """The lower end of the interval; the value itself where no interval is known."""
        return self.top1_mean if self.top1_ci95_lo is None else self.top1_ci95_lo

    @property
    def interval_high(self) -> float:
        """The upper end of the interval; the value itself where no interval is known."""
        return self.top1_mean if self.top1_ci95_hi is None else self.top1_ci95_hi


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there are, so that nothing is dropped in silence.

    ``groups`` are the own rows; ``empty_groups`` the recipes without one result, which have no
    row. ``runs`` are all that ended, ``failed`` and ``cancelled`` among them.
    """

    groups: int = 0
    runs: int = 0
    failed: int = 0
    cancelled: int = 0
    empty_groups: int = 0
    published: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one dataset, best first; full precision last, without a rank.

    ``group`` says which part of the dataset's rows these are, as (column, value); ``hidden``
    counts the rows that were ranked and are not shown.
    """

    dataset: str
    rows: tuple[Entry, ...]
    counts: Counts
    group: tuple[tuple[str, str], ...] = ()
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class Deviations:
    """Where a run's recipe deviates from ``base``, the paper's; empty where the paper has none.

    ``keys`` are (key, its value here, its value there), as texts.
    """

    base: str
    keys: tuple[tuple[str, str, str], ...]

    @property
    def text(self) -> str:
        """One line for people: ``deviates from paper/w4a4: train.lr 0.04 (0.01), …``."""
        if not self.base:
            return "the paper has no recipe for these bits"
        if not self.keys:
            return f"as {self.base}"
        listed = ", ".join(f"{key} {value} ({base_value})" for key, value, base_value in self.keys)
        return f"deviates from {self.base}: {listed}"


@dataclass(frozen=True, slots=True)
class Board:
    """One table a dataset; ``best_seed`` and ``per_run`` say how it was asked for.

    ``deviations``, where they were asked for, are by the ``best_run`` of a row.
    """

    tables: tuple[Table, ...]
    best_seed: bool = False
    per_run: bool = False
    deviations: Mapping[str, Deviations] = field(default_factory=dict)

    def deviations_of(self, entry: Entry) -> Deviations | None:
        """Return where a row deviates from the paper's recipe; None where nobody asked."""
        return self.deviations.get(entry.best_run) if entry.is_local and entry.best_run else None

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All rows of all tables, in order."""
        return tuple(entry for table in self.tables for entry in table.rows)
