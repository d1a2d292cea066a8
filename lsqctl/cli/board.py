"""`leaderboard` and `export`: what the runs have come to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lsqctl.cli.page import Force, Html, write_html
from lsqctl.cli.render import say
from lsqctl.cli.state import Json, settings, workspace

if TYPE_CHECKING:
    from lsqctl.leaderboard.board import Board
    from lsqctl.leaderboard.rank import Cost

Dataset = Annotated[str | None, typer.Option(help="Only this dataset.")]
Published = Annotated[
    Literal["auto", "all", "none"],
    typer.Option(
        "--references", help="Published rows: of own datasets and the paper's page, all, or none."
    ),
]
BestSeed = Annotated[
    bool, typer.Option("--best-seed", help="Only each group's best seed, and labelled so.")
]
Pareto = Annotated[
    Literal["top1,-gbops", "top1,-size_bytes"],
    typer.Option(help="What `pareto_optimal` weighs Top-1 against."),
]
PerRun = Annotated[bool, typer.Option("--per-run", help="A row for each run, not for each group.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the top level."""
    app.command(epilog="Example: lsqctl leaderboard --dataset cifar10 --format md")(leaderboard)
    app.command(epilog="Example: lsqctl export board.csv")(export)


def leaderboard(
    ctx: typer.Context,
    dataset: Dataset = None,
    style: Annotated[
        Literal["table", "csv", "json", "md"], typer.Option("--format", help="How to print it.")
    ] = "table",
    references: Published = "auto",
    per_run: PerRun = False,
    best_seed: BestSeed = False,
    pareto: Pareto = "top1,-gbops",
    layout: Annotated[
        Literal["board", "pwc"],
        typer.Option("--view", help="pwc: Task, Dataset, Metric, Value, Model, a line a metric."),
    ] = "board",
    json: Json = False,
    html: Html = None,
    force: Force = False,
) -> None:
    """Rank results: mean over seeds, interval, difference to full precision, size, source."""
    from lsqctl.api.board import FORMATS, board

    chosen = "json" if json else style
    how: dict[str, Any] = {"dataset": dataset, "references": references, "per_run": per_run}
    how |= {"best_seed": best_seed, "settings": settings(ctx)}
    if layout == "pwc":
        _pwc(ctx, chosen, **how)
        return
    with workspace(ctx) as store:
        ranked = board(store, pareto=_cost(pareto), **how)
        if html is not None:
            write_html(store, ranked, html, force=force)
            return
    if chosen == "table":
        _draw(ranked)
    else:
        sys.stdout.write(FORMATS[chosen](ranked))


def export(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="A file ending in .csv, .json or .md.")],
    dataset: Dataset = None,
    references: Published = "auto",
    per_run: PerRun = False,
    best_seed: BestSeed = False,
    pareto: Pareto = "top1,-gbops",
    force: Force = False,
) -> None:
    """Write the leaderboard to a file, by its ending."""
    from lsqctl.api import board as api

    with workspace(ctx) as store:
        ranked = api.board(
            store,
            dataset=dataset,
            references=references,
            per_run=per_run,
            best_seed=best_seed,
            pareto=_cost(pareto),
            settings=settings(ctx),
        )
    size = api.export(ranked, path, force=force)
    say(f"{path}: {len(ranked.entries)} rows, {size} bytes")


def _pwc(ctx: typer.Context, chosen: str, **how: Any) -> None:
    """Print the board in the form of a Papers With Code page."""
    from lsqctl.api.board import LINE_FORMATS, page_view
    from lsqctl.cli.board_table import draw_tables
    from lsqctl.leaderboard.page_lines import lines_table

    with workspace(ctx) as store:
        lines = page_view(store, **how)
    if chosen == "table":
        draw_tables([lines_table(lines)])
    else:
        sys.stdout.write(LINE_FORMATS[chosen](lines))


def _cost(pareto: str) -> Cost:
    """Return the column that the second axis of --pareto names."""
    return "size_bytes" if pareto.endswith("-size_bytes") else "gbops"


def _draw(ranked: Board) -> None:
    from lsqctl.cli.board_table import draw

    if not any(table.counts.groups for table in ranked.tables):
        say("no finished run yet; `lsqctl submit RECIPE`, then `lsqctl worker --until-empty`")
    draw(ranked)
