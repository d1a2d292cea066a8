"""The CSV contract, version 2: each column's name, type, unit and meaning, in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from lsqctl.errors import UsageError, did_you_mean

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
origin           | text   |       | own or published
source_kind      | text   |       | paper, readme or page; empty for own rows
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
