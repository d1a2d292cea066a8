"""`leaderboard` and `export`: what the runs have come to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.board_options import (
    BestSeed,
    Columns,
    Dataset,
    Filter,
    GroupBy,
    Limit,
    PerRun,
    PivotOf,
    Published,
    Raw,
    Sort,
    Style,
    listed,
    look_of,
)
from lsqctl.cli.render import say, warn
from lsqctl.cli.state import Json, workspace

if TYPE_CHECKING:
    from lsqctl.leaderboard.board import Board
    from lsqctl.leaderboard.output import Look

Force = Annotated[bool, typer.Option("--force", help="Overwrite the file.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the top level."""
    app.command(epilog='Example: lsqctl leaderboard --where "w_bits <= 4" --sort -top1_mean')(
        leaderboard
    )
    app.command(epilog="Example: lsqctl export board.csv")(export)


def leaderboard(
    ctx: typer.Context,
    dataset: Dataset = None,
    where: Filter = None,
    columns: Columns = "",
    sort: Sort = "",
    group_by: GroupBy = "",
    pivot: PivotOf = "",
    limit: Limit = None,
    style: Annotated[Style | None, typer.Option("--format", help="How to print it.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file; its ending tells the format.")
    ] = None,
    force: Force = False,
    references: Published = "auto",
    per_run: PerRun = False,
    best_seed: BestSeed = False,
    raw: Raw = False,
    json: Json = False,
) -> None:
    """Rank results: mean over seeds, interval, difference to full precision, size, source."""
    from lsqctl.api.board import board
    from lsqctl.leaderboard.output import write

    look = look_of(columns, pivot, raw=raw)
    with workspace(ctx) as store:
        ranked = board(
            store,
            dataset=dataset,
            references=references,
            per_run=per_run,
            best_seed=best_seed,
            where=where,
            group_by=listed(group_by),
            sort=listed(sort),
            limit=limit,
        )
    chosen = "json" if json else style
    if output is not None:
        _save(ranked, output, chosen, look, force=force)
    elif chosen in (None, "table"):
        _draw(ranked, look, filtered=bool(where))
    else:
        _warn_raw(look)
        sys.stdout.write(write(ranked, str(chosen), look))


def export(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="A file: .csv, .json, .md, .html or .tex.")],
    dataset: Dataset = None,
    where: Filter = None,
    columns: Columns = "",
    sort: Sort = "",
    pivot: PivotOf = "",
    style: Annotated[
        Style | None, typer.Option("--format", help="Another format than the ending tells.")
    ] = None,
    references: Published = "auto",
    per_run: PerRun = False,
    best_seed: BestSeed = False,
    raw: Raw = False,
    force: Force = False,
) -> None:
    """Write the leaderboard to a file, by its ending."""
    from lsqctl.api.board import board

    look = look_of(columns, pivot, raw=raw)
    with workspace(ctx) as store:
        ranked = board(
            store,
            dataset=dataset,
            references=references,
            per_run=per_run,
            best_seed=best_seed,
            where=where,
            sort=listed(sort),
        )
    _save(ranked, path, style, look, force=force)


def _save(ranked: Board, path: Path, style: str | None, look: Look, *, force: bool) -> None:
    from lsqctl.api import board as api

    _warn_raw(look)
    size = api.export(ranked, path, style=style, look=look, force=force)
    say(f"{path}: {len(ranked.entries)} rows, {size} bytes")


def _warn_raw(look: Look) -> None:
    if look.raw:
        warn("--raw leaves texts that a spreadsheet may run as formulas")


def _draw(ranked: Board, look: Look, *, filtered: bool) -> None:
    from lsqctl.cli.board_table import draw
    from lsqctl.leaderboard.output import tables_of

    if filtered and not ranked.entries:
        say("no row is like that; `lsqctl leaderboard` without --where shows all")
    elif not any(table.counts.groups for table in ranked.tables):
        say("no finished run yet; `lsqctl submit RECIPE`, then `lsqctl worker --until-empty`")
    draw(tables_of(ranked, look))
