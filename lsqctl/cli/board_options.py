"""The options of `leaderboard` and `export`: each with its help, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lsqctl.cli import completing
from lsqctl.cli.state import positive_int

if TYPE_CHECKING:
    from lsqctl.leaderboard.output import Look

# lsqctl.leaderboard.output has the same words: importing it here would slow every command's start
OutputFormat = Literal[
    "table", "csv", "json", "md", "html", "latex", "pwc-json", "hf-model-index", "hf-eval-results"
]
Dataset = Annotated[str | None, typer.Option(help="Only this dataset.")]
ShowPublished = Annotated[
    Literal["auto", "all", "none"],
    typer.Option(
        "--published", help="Published results: of local datasets and the paper's page, all, or none."
    ),
]
BoardWhere = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="FILTER",
        help="Only rows like this: \"w_bits <= 4 and arch ~ 'resnet'\".",
    ),
]
PerRun = Annotated[bool, typer.Option("--per-run", help="A row for each run, not for each group.")]
BestSeed = Annotated[
    bool, typer.Option("--best-seed", help="Each group by its best seed; the board says so.")
]
Pareto = Annotated[
    Literal["top1,-gbops", "top1,-size_bytes"],
    typer.Option(help="What `pareto_optimal` weighs Top-1 against."),
]
View = Annotated[
    Literal["board", "pwc"],
    typer.Option("--view", help="pwc: Task, Dataset, Metric, Value, Model, a line a metric."),
]
Deviations = Annotated[
    bool,
    typer.Option("--deviations", help="Under each own row, where it departs from the paper."),
]
GroupBy = Annotated[
    str,
    typer.Option(
        metavar="COLUMN,…",
        help="A table of each combination of values.",
        autocompletion=completing.columns,
    ),
]
Sort = Annotated[
    str,
    typer.Option(
        metavar="[-]COLUMN,…",
        help="Order of rows; `-` for the largest first.",
        autocompletion=completing.columns,
    ),
]
Columns = Annotated[
    str,
    typer.Option(
        metavar="COLUMN,…", help="These columns of docs/csv.md.", autocompletion=completing.columns
    ),
]
PivotSpec = Annotated[
    str,
    typer.Option(
        "--pivot", metavar="ROW,COLUMN[,VALUE]", help="Cross two columns: arch,bits or arch,w_bits."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(parser=positive_int, metavar="N", help="At most so many rows of each table."),
]
Raw = Annotated[bool, typer.Option("--raw", help="CSV without the guard against formulas.")]


def split_commas(text: str) -> tuple[str, ...]:
    """Return the names of a list that commas part."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def output_options(columns: str, pivot: str, *, raw: bool) -> Look:
    """Return how the board is written.  Raises UsageError."""
    from lsqctl.errors import UsageError
    from lsqctl.leaderboard.output import Look
    from lsqctl.leaderboard.pivot import Pivot

    pivot_columns = split_commas(pivot)
    if pivot and len(pivot_columns) not in (2, 3):
        raise UsageError(f"--pivot takes ROW,COLUMN or ROW,COLUMN,VALUE, got `{pivot}`")
    return Look(split_commas(columns), Pivot(*pivot_columns) if pivot_columns else None, raw)
