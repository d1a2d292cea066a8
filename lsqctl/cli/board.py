"""`leaderboard` and `export`: what the runs have come to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lsqctl.cli.page import Force, Html, write_html
from lsqctl.cli.render import say
from lsqctl.cli.state import Json, workspace

if TYPE_CHECKING:
    from lsqctl.leaderboard.board import Board

Dataset = Annotated[str | None, typer.Option(help="Only this dataset.")]
Published = Annotated[
    Literal["auto", "all", "none"],
    typer.Option(
        "--references", help="Published rows: of own datasets and the paper's page, all, or none."
    ),
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
    json: Json = False,
    html: Html = None,
    force: Force = False,
) -> None:
    """Rank results: mean over seeds, interval, difference to full precision, size, source."""
    from lsqctl.api.board import FORMATS, board

    with workspace(ctx) as store:
        ranked = board(store, dataset=dataset, references=references, per_run=per_run)
        if html is not None:
            write_html(store, ranked, html, force=force)
            return
    chosen = "json" if json else style
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
    force: Force = False,
) -> None:
    """Write the leaderboard to a file, by its ending."""
    from lsqctl.api import board as api

    with workspace(ctx) as store:
        ranked = api.board(store, dataset=dataset, references=references, per_run=per_run)
    size = api.export(ranked, path, force=force)
    say(f"{path}: {len(ranked.entries)} rows, {size} bytes")


def _draw(ranked: Board) -> None:
    from lsqctl.cli.board_table import draw

    if not any(table.counts.groups for table in ranked.tables):
        say("no finished run yet; `lsqctl submit RECIPE`, then `lsqctl worker --until-empty`")
    draw(ranked)
