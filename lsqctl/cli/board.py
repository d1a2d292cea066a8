"""`leaderboard` and `export`: what the runs have come to."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.render import say
from lsqctl.cli.state import Json, workspace

if TYPE_CHECKING:
    from lsqctl.leaderboard.board import Board


class Format(StrEnum):
    """How a board is printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    MD = "md"


Dataset = Annotated[str | None, typer.Option(help="Only this dataset.")]
PerRun = Annotated[bool, typer.Option("--per-run", help="A row for each run, not for each group.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the top level."""
    app.command(epilog="Example: lsqctl leaderboard --dataset cifar10 --format md")(leaderboard)
    app.command(epilog="Example: lsqctl export board.csv")(export)


def leaderboard(
    ctx: typer.Context,
    dataset: Dataset = None,
    style: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TABLE,
    per_run: PerRun = False,
    json: Json = False,
) -> None:
    """Rank results: mean over seeds, interval, difference to full precision, size, source."""
    from lsqctl.api.board import FORMATS, board

    with workspace(ctx) as store:
        ranked = board(store, dataset=dataset, per_run=per_run)
    chosen = Format.JSON if json else style
    if chosen is Format.TABLE:
        _draw(ranked)
    else:
        sys.stdout.write(FORMATS[chosen.value](ranked))


def export(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="A file ending in .csv, .json or .md.")],
    dataset: Dataset = None,
    per_run: PerRun = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write the leaderboard to a file, by its ending."""
    from lsqctl.api import board as api

    with workspace(ctx) as store:
        ranked = api.board(store, dataset=dataset, per_run=per_run)
    size = api.export(ranked, path, force=force)
    rows = sum(len(table.rows) for table in ranked.tables)
    say(f"{path}: {rows} rows, {size} bytes")


def _draw(ranked: Board) -> None:
    from lsqctl.cli.board_table import draw

    if not any(table.counts.groups for table in ranked.tables):
        say("no finished run yet; `lsqctl submit RECIPE`, then `lsqctl worker --until-empty`")
    draw(ranked)
