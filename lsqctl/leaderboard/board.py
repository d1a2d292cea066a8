"""The board as a value: the columns of the CSV contract, entries, tables by dataset, counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lsqctl.errors import UsageError
from lsqctl.text import did_you_mean

SCHEMA_VERSION = 2

ColumnKind = Literal["text", "number", "bool"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the contract; ``unit`` is empty for text and for pure numbers."""

    name: str
    kind: ColumnKind
    unit: str
    meaning: str


# Later versions only append: a reader may rely on places and names.
_CONTRACT = """
rank             | number |       | 1 + the rows of its dataset whose whole interval lies above this row's; empty for full precision
model            | text   |       | the recipe's name, or what the source calls the row
arch             | text   |       | network
dataset          | text   |       | dataset
split            | text   |       | the images that were evaluated
method           | text   |       | how it was quantized
weight_bits      | number | bits  | quant.weight_bits; 32 is not quantized
act_bits         | number | bits  | quant.act_bits; 32 is not quantized
first_last_bits  | text   |       | bits of the first and the last layer
granularity      | text   |       | whether a step serves a tensor or a channel
top1_mean        | number | %     | Top-1, mean over the newest run of each seed
top1_std         | number | %     | sample standard deviation over seeds (n - 1); empty for one seed
top1_ci95_lo     | number | %     | lower end of the 95 % interval: Wilson's of one evaluation, or Student's t over three seeds or more where that is wider
top1_ci95_hi     | number | %     | upper end of the same interval
n_seeds          | number |       | seeds in the mean
seeds            | text   |       | those seeds, parted by blanks
top1_best        | number | %     | the best seed's Top-1, for information
best_run         | text   |       | id of the best seed's run
top5_mean        | number | %     | Top-5, mean over the same runs
fp32_top1        | number | %     | Top-1 of the same weights before quantization, measured by the run; published for published rows
delta_fp32       | number | %     | top1_mean - fp32_top1
eval_n           | number |       | images of one evaluation; the fewest, should the runs differ
params           | number |       | parameters of the network
size_bytes       | number | bytes | packed weights, steps, and folded norms and biases
gmacs            | number | 10^9  | multiply-accumulates an image
gbops            | number | 10^9  | bit operations an image: MACs x weight bits x activation bits
pareto_optimal   | bool   |       | no other row of its dataset is as good and cheaper, or as cheap and better; a tie within the interval counts as equal
epochs           | number |       | epochs trained
train_gpu_h      | number | h     | hours of training a run on `device`, mean over runs
peak_mem_bytes   | number | bytes | largest peak of memory over runs
device           | text   |       | what it was trained on; several are parted by `; `
torch            | text   |       | version of PyTorch
precision        | text   |       | arithmetic of the layers
deterministic    | text   |       | whether a repeat gives the same bits
state            | text   |       | state of the runs that count
n_failed         | number |       | runs of the same recipe that failed
verified         | bool   |       | evaluated again from the hash-checked checkpoint with an equal count; empty where not tried for every run
checkpoint_sha256 | text  |       | hash of the best seed's checkpoint
checkpoint_path  | text   |       | where that checkpoint lies
recipe_sha256    | text   |       | the recipe without its seed: it names the group
code_commit      | text   |       | git commit of the code
code_dirty       | bool   |       | whether that code had uncommitted changes
created_at       | text   |       | when the newest run was queued, ISO 8601 in UTC
notes            | text   |       | remarks
origin           | text   |       | local or published
source_kind      | text   |       | paper, readme or page; empty for local rows
source_url       | text   |       | where a published row was read
selected_on_test | bool   |       | the epoch was chosen by looking at the evaluated images
top1_last_epoch  | number | %     | Top-1 of the last epoch, mean over the same runs
top1_best_epoch  | number | %     | Top-1 of the best epoch, mean over the same runs: always chosen by looking at the evaluated images
suspect          | bool   |       | more than three standard deviations above its own full-precision start or the paper's row, or no better than guessing; `notes` says which; empty for published rows
"""  # noqa: E501  a table reads best unbroken


def check_column_names(
    names: Iterable[str], option: str, extra: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return column names if all of them are; UsageError with the nearest one otherwise."""
    allowed = (*COLUMN_NAMES, *extra)
    for name in (requested := tuple(names)):
        if name not in allowed:
            raise UsageError(
                f"{option}: no column is called `{name}`{did_you_mean(name, allowed)}; "
                f"columns: {', '.join(allowed)}"
            )
    return requested


def _parse_column(line: str) -> Column:
    name, kind, unit, meaning = (part.strip() for part in line.split("|", 3))
    kinds: dict[str, ColumnKind] = {"text": "text", "number": "number", "bool": "bool"}
    return Column(name, kinds[kind], unit, meaning)


COLUMNS: tuple[Column, ...] = tuple(map(_parse_column, _CONTRACT.strip().splitlines()))
COLUMN_NAMES: tuple[str, ...] = tuple(column.name for column in COLUMNS)
COLUMNS_BY_NAME: Mapping[str, Column] = {column.name: column for column in COLUMNS}


def columns_markdown() -> str:
    """Return the contract as a markdown table, as docs/csv.md shows it."""
    rows = [f"| {c.name} | {c.kind} | {c.unit} | {c.meaning} |" for c in COLUMNS]
    return "\n".join(["| column | type | unit | meaning |", "|---|---|---|---|", *rows]) + "\n"


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
        return self.origin == "local"

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

    ``groups`` are the local rows; ``empty_groups`` the recipes without one result, which have no
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
