"""The columns of the board, each declared once: type, unit, heading, meaning, and its source.

Rows, filters, CSV, JSON, data frames, the cells of every table and docs/csv.md follow from here:
a new column is one field of ``Entry``.
"""

# No postponed annotations: what stands in ``Annotated`` is read when the module is imported.
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from types import NoneType
from typing import Annotated, Literal, get_args

from lsqctl.errors import UsageError
from lsqctl.filters.expression import ColumnKind
from lsqctl.filters.parser import ALIASES
from lsqctl.leaderboard.published_results import PublishedResult
from lsqctl.leaderboard.run_group import (
    Source,
    Value,
    all_verified,
    any_dirty,
    difference,
    distinct,
    first_known,
    join_distinct,
    mean_of,
    mean_percent,
    newest,
    of_group,
    to_utc,
)
from lsqctl.leaderboard.statistics import sample_std, wilson_interval
from lsqctl.run import RECORDED
from lsqctl.text import did_you_mean

SCHEMA_VERSION = 2
Unit = Literal["", "bits", "%", "bytes", "10^9", "h"]


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """What is declared of a column beside its name and type.

    ``meaning`` and ``unit`` stand in the contract; ``heading`` in tables that choose it by
    themselves, where the column with the lowest ``priority`` goes first when space is short and
    0 never goes. ``source`` makes its value from runs and ``published`` from a published result;
    without them it is set after ranking, or unknown. ``signed`` shows a plus.
    """

    meaning: str
    unit: Unit = ""
    source: Source | None = None
    published: Callable[[PublishedResult], Value] | None = None
    heading: str = ""
    priority: int = 0
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the contract: its name, what its values are, and what was declared of it."""

    name: str
    value_type: type
    spec: ColumnSpec

    @property
    def kind(self) -> Literal["text", "number", "bool"]:
        """What a reader of the CSV has to expect."""
        if self.value_type is bool:
            return "bool"
        return "text" if self.value_type is str else "number"


def published(name: str) -> Callable[[PublishedResult], Value]:
    """Return what reads a field of a published result; an empty text is unknown."""
    read = attrgetter(name)
    return lambda result: None if (value := read(result)) == "" else value


def published_interval(result: PublishedResult) -> tuple[float, float] | None:
    """Return Wilson's interval of a published Top-1, where the number of images is known."""
    if not result.n_total:
        return None
    top1 = float(result.top1)
    low, high = wilson_interval(top1 / 100 * result.n_total, result.n_total)
    return min(low, top1), max(high, top1)


def _published_end(end: Literal[0, 1]) -> Callable[[PublishedResult], Value]:
    return lambda result: (published_interval(result) or (None, None))[end]


def _published_float(name: str) -> Callable[[PublishedResult], Value]:
    read = attrgetter(name)
    return lambda result: None if (value := read(result)) is None else float(value)


# Later versions only append: a reader may rely on places and names.
@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the board: a group of runs (a recipe without its seed), or a published row.

    The fields are the columns of the CSV contract, in order. None is unknown, or does not apply.
    """

    # fmt: off
    rank: Annotated[int | None, ColumnSpec(
        "1 + the rows of its dataset whose whole interval lies above this row's; empty for full precision",
        heading="#")]
    model: Annotated[str, ColumnSpec(
        "the recipe's name, or what the source calls the row",
        source=newest("name"), published=published("model"), heading="model")]
    arch: Annotated[str | None, ColumnSpec(
        "network",
        source=newest("arch"), published=published("arch"))]
    dataset: Annotated[str, ColumnSpec(
        "dataset",
        source=newest("dataset"), published=published("dataset"))]
    split: Annotated[str | None, ColumnSpec(
        "the images that were evaluated",
        source=of_group(lambda group: join_distinct(run.split for run in group.runs)))]
    method: Annotated[str | None, ColumnSpec(
        "how it was quantized",
        source=distinct("method"), published=published("method"))]
    weight_bits: Annotated[int, ColumnSpec(
        "quant.weight_bits; 32 is not quantized", "bits",
        newest("weight_bits"), published("weight_bits"), heading="W")]
    act_bits: Annotated[int, ColumnSpec(
        "quant.act_bits; 32 is not quantized", "bits",
        newest("act_bits"), published("act_bits"), heading="A")]
    first_last_bits: Annotated[str | None, ColumnSpec(
        "bits of the first and the last layer",
        source=distinct("first_last_bits"))]
    granularity: Annotated[str | None, ColumnSpec(
        "whether a step serves a tensor or a channel",
        source=distinct("granularity"))]
    top1_mean: Annotated[float, ColumnSpec(
        "Top-1, mean over the newest run of each seed", "%",
        of_group(lambda group: group.top1_mean), _published_float("top1"), heading="Top-1 %")]
    top1_std: Annotated[float | None, ColumnSpec(
        "sample standard deviation over seeds (n - 1); empty for one seed", "%",
        of_group(lambda group: sample_std(group.top1s)))]
    top1_ci95_lo: Annotated[float | None, ColumnSpec(
        "lower end of the 95 % interval: Wilson's of one evaluation, or Student's t over three seeds or more where that is wider", "%",
        of_group(lambda group: group.interval[0]), _published_end(0))]
    top1_ci95_hi: Annotated[float | None, ColumnSpec(
        "upper end of the same interval", "%",
        of_group(lambda group: group.interval[1]), _published_end(1))]
    n_seeds: Annotated[int | None, ColumnSpec(
        "seeds in the mean",
        source=of_group(lambda group: len(group.runs)), heading="n", priority=3)]
    seeds: Annotated[str | None, ColumnSpec(
        "those seeds, parted by blanks",
        source=of_group(lambda group: " ".join(str(run.seed) for run in group.runs)))]
    top1_best: Annotated[float | None, ColumnSpec(
        "the best seed's Top-1, for information", "%",
        of_group(lambda group: max(group.top1s)))]
    best_run: Annotated[str | None, ColumnSpec(
        "id of the best seed's run",
        source=of_group(lambda group: group.best.run_id))]
    top5_mean: Annotated[float | None, ColumnSpec(
        "Top-5, mean over the same runs", "%",
        mean_percent("n_correct_top5"), _published_float("top5"))]
    fp32_top1: Annotated[float | None, ColumnSpec(
        "Top-1 of the same weights before quantization, measured by the run; published for published rows", "%",
        of_group(lambda group: group.fp32_top1), _published_float("fp32_top1"))]
    delta_fp32: Annotated[float | None, ColumnSpec(
        "top1_mean - fp32_top1", "%",
        of_group(lambda group: difference(group.top1_mean, group.fp32_top1)), lambda result: difference(result.top1, result.fp32_top1), heading="Δ FP", priority=4, signed=True)]
    eval_n: Annotated[int | None, ColumnSpec(
        "images of one evaluation; the fewest, should the runs differ",
        source=of_group(lambda group: group.eval_n), published=published("n_total"))]
    params: Annotated[int | None, ColumnSpec(
        "parameters of the network",
        source=first_known("params"))]
    size_bytes: Annotated[int | None, ColumnSpec(
        "packed weights, steps, and folded norms and biases", "bytes",
        first_known("size_bytes"), heading="size", priority=2)]
    gmacs: Annotated[float | None, ColumnSpec(
        "multiply-accumulates an image", "10^9",
        first_known("macs", per=1e9))]
    gbops: Annotated[float | None, ColumnSpec(
        "bit operations an image: MACs x weight bits x activation bits", "10^9",
        first_known("bops", per=1e9), heading="BOPs", priority=1)]
    pareto_optimal: Annotated[bool | None, ColumnSpec(
        "no other row of its dataset is as good and cheaper, or as cheap and better; a tie within the interval counts as equal")]
    epochs: Annotated[int | None, ColumnSpec(
        "epochs trained",
        source=first_known("epochs"))]
    train_gpu_h: Annotated[float | None, ColumnSpec(
        "hours of training a run on `device`, mean over runs", "h",
        mean_of("train_seconds", per=3600))]
    peak_mem_bytes: Annotated[int | None, ColumnSpec(
        "largest peak of memory over runs", "bytes",
        of_group(lambda group: max((run.peak_mem_bytes for run in group.runs if run.peak_mem_bytes is not None), default=None)))]
    device: Annotated[str | None, ColumnSpec(
        "what it was trained on; several are parted by `; `",
        source=distinct("device"))]
    torch: Annotated[str | None, ColumnSpec(
        "version of PyTorch",
        source=distinct("torch"))]
    precision: Annotated[str | None, ColumnSpec(
        "arithmetic of the layers",
        source=distinct("precision"))]
    deterministic: Annotated[str | None, ColumnSpec(
        "whether a repeat gives the same bits",
        source=distinct("deterministic"))]
    state: Annotated[str | None, ColumnSpec(
        "state of the runs that count",
        source=of_group(lambda group: str(group.newest.state)))]
    n_failed: Annotated[int | None, ColumnSpec(
        "runs of the same recipe that failed",
        source=of_group(lambda group: group.n_failed))]
    verified: Annotated[bool | None, ColumnSpec(
        "evaluated again from the hash-checked checkpoint with an equal count; empty where not tried for every run",
        source=of_group(all_verified))]
    checkpoint_sha256: Annotated[str | None, ColumnSpec(
        "hash of the best seed's checkpoint",
        source=of_group(lambda group: group.best.checkpoint_sha256 or None))]
    checkpoint_path: Annotated[str | None, ColumnSpec(
        "where that checkpoint lies",
        source=of_group(lambda group: group.best.checkpoint_path or None))]
    recipe_sha256: Annotated[str | None, ColumnSpec(
        "the recipe without its seed: it names the group",
        source=newest("recipe_sha256"))]
    code_commit: Annotated[str | None, ColumnSpec(
        "git commit of the code",
        source=distinct("code_commit", at_submit=True))]
    code_dirty: Annotated[bool | None, ColumnSpec(
        "whether that code had uncommitted changes",
        source=Source(any_dirty, lambda run: run.code_dirty, at_submit=True))]
    created_at: Annotated[str | None, ColumnSpec(
        "when the newest run was queued, ISO 8601 in UTC",
        source=Source(lambda group: to_utc(group.newest.created_at).isoformat(), lambda run: to_utc(run.created_at), at_submit=True))]
    notes: Annotated[str | None, ColumnSpec(
        "remarks",
        source=of_group(lambda group: join_distinct([f"best of {group.best_of} seeds" if group.best_of > 1 else "", *(run.notes for run in group.runs)])), published=published("notes"))]
    origin: Annotated[str, ColumnSpec(
        "local, recorded (by a loop that lsqctl did not run) or published",
        source=newest("origin"), published=lambda _: "published", heading="source", priority=5)]
    source_kind: Annotated[str | None, ColumnSpec(
        "paper, readme or page; empty for local rows",
        published=published("source_kind"))]
    source_url: Annotated[str | None, ColumnSpec(
        "where a published row was read",
        published=published("source_url"))]
    selected_on_test: Annotated[bool | None, ColumnSpec(
        "the epoch was chosen by looking at the evaluated images",
        source=of_group(lambda group: any(run.selection == "best" for run in group.runs)))]
    top1_last_epoch: Annotated[float | None, ColumnSpec(
        "Top-1 of the last epoch, mean over the same runs", "%",
        mean_percent("n_correct_last"))]
    top1_best_epoch: Annotated[float | None, ColumnSpec(
        "Top-1 of the best epoch, mean over the same runs: always chosen by looking at the evaluated images", "%",
        mean_percent("n_correct_best"))]
    suspect: Annotated[bool | None, ColumnSpec(
        "more than three standard deviations above its own full-precision start or the paper's row, or no better than guessing; `notes` says which; empty for published rows")]
    eval_loss: Annotated[float | None, ColumnSpec(
        "mean cross entropy of an evaluation, in nats, mean over the same runs",
        source=mean_of("loss"))]
    top1_deployed: Annotated[float | None, ColumnSpec(
        "Top-1 of the deployed file, run by itself, mean over the same runs", "%",
        mean_percent("n_correct_deployed"))]
    exactness: Annotated[str | None, ColumnSpec(
        "of the deployed file: exact, settled (exact once biases were moved off ties), or how many codes differ from the integer reference",
        source=distinct("exactness"))]
    file_bytes: Annotated[int | None, ColumnSpec(
        "the deployed file's own bytes, beside the computed `size_bytes`", "bytes",
        first_known("file_bytes"))]
    user: Annotated[str | None, ColumnSpec(
        "who submitted the runs; several are parted by `; `",
        source=distinct("user", at_submit=True))]
    chain: Annotated[str | None, ColumnSpec(
        "ids of the runs that these go on from (`runs extend`), the first one first; several are parted by `; `",
        source=distinct("chain"))]
    partial: Annotated[bool | None, ColumnSpec(
        "trained or evaluated on a part of the images (data.limit_train, data.limit_eval): ranked with none of the whole",
        source=Source(lambda group: any(run.partial for run in group.runs), lambda run: run.partial, at_submit=True))]
    mixed: Annotated[bool | None, ColumnSpec(
        "whether quant.overrides give some layers bits of their own, so that `weight_bits` and `act_bits` are those of the others",
        source=Source(lambda group: group.newest.mixed, lambda run: run.mixed))]
    # fmt: on

    @property
    def is_local(self) -> bool:
        """Whether this was measured here, rather than published."""
        return self.origin != "published"

    @property
    def is_recorded(self) -> bool:
        """Whether a loop of somebody's own measured it, and lsqctl did not."""
        return self.origin == RECORDED

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


def _column(name: str, annotation: object) -> Column:
    hint, spec = get_args(annotation)
    types = [part for part in get_args(hint) or (hint,) if part is not NoneType]
    return Column(name, types[0], spec)


COLUMNS: tuple[Column, ...] = tuple(_column(field.name, field.type) for field in fields(Entry))
COLUMN_NAMES: tuple[str, ...] = tuple(column.name for column in COLUMNS)
COLUMNS_BY_NAME: Mapping[str, Column] = {column.name: column for column in COLUMNS}

# What a filter may ask of one run; what only ranking makes is asked of the rows.
RUN_SOURCES: Mapping[str, Source] = {
    "run_id": Source(lambda _: None, lambda run: run.run_id, at_submit=True),
    "seed": Source(lambda _: None, lambda run: run.seed, at_submit=True),
    **{
        column.name: column.spec.source
        for column in COLUMNS
        if column.spec.source and column.spec.source.of_run
    },
}
WHERE_COLUMNS: Mapping[str, ColumnKind] = {
    "run_id": "text",
    "seed": "number",
    **{column.name: column.kind for column in COLUMNS},
    "created_at": "time",
}


def check_column_names(
    names: Iterable[str], option: str, extra: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return column names if all of them are; UsageError with the nearest one otherwise."""
    allowed = (*COLUMN_NAMES, *extra)
    for name in (requested := tuple(names)):
        if name not in allowed:
            alias = ALIASES.get(name)
            hint = f"; did you mean `{alias}`?" if alias else did_you_mean(name, allowed)
            raise UsageError(
                f"{option}: no column is called `{name}`{hint}; columns: {', '.join(allowed)}"
            )
    return requested


def columns_markdown() -> str:
    """Return the contract as a markdown table, as docs/csv.md shows it."""
    rows = [f"| {c.name} | {c.kind} | {c.spec.unit} | {c.spec.meaning} |" for c in COLUMNS]
    return "\n".join(["| column | type | unit | meaning |", "|---|---|---|---|", *rows]) + "\n"
