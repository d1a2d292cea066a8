"""`leaderboard` and `export`: what the runs have come to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lsqctl.cli.board_options import (
    BestSeed,
    Columns,
    Dataset,
    Deviations,
    Filter,
    GroupBy,
    Layout,
    Limit,
    Pareto,
    PerRun,
    PivotOf,
    Published,
    Raw,
    Sort,
    Style,
    listed,
    look_of,
)
from lsqctl.cli.page import Force, Html, write_html
from lsqctl.cli.render import say, warn
from lsqctl.cli.state import Json, settings, workspace
from lsqctl.errors import UsageError
from lsqctl.wording import counted

if TYPE_CHECKING:
    from lsqctl.leaderboard.board import Board
    from lsqctl.leaderboard.output import Look
    from lsqctl.leaderboard.rank import Cost


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
    pareto: Pareto = "top1,-gbops",
    deviations: Deviations = False,
    layout: Layout = "board",
    raw: Raw = False,
    json: Json = False,
    html: Html = None,
) -> None:
    """Rank results: mean over seeds, interval, difference to full precision, size, source."""
    from lsqctl.api.board import board
    from lsqctl.leaderboard.output import write

    look = look_of(columns, pivot, raw=raw)
    chosen = "json" if json else style
    how: dict[str, Any] = {"dataset": dataset, "references": references, "per_run": per_run}
    how |= {"best_seed": best_seed, "settings": settings(ctx)}
    shaped: dict[str, Any] = {
        "where": where,
        "group_by": listed(group_by),
        "sort": listed(sort),
        "limit": limit,
    }
    if layout == "pwc":
        if any([*shaped.values(), output, html, deviations, look.columns, look.pivot]):
            raise UsageError("--view pwc has a form of its own; --dataset and --format fit it")
        _pwc(ctx, chosen or "table", **how)
        return
    with workspace(ctx) as store:
        ranked = board(store, pareto=_cost(pareto), **how, **shaped)
        if deviations:
            from lsqctl.api.deviations import with_deviations  # reads recipes, which takes longer

            ranked = with_deviations(ranked, store)
        if html is not None:
            write_html(store, ranked, html, force=force)
            return
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
    pareto: Pareto = "top1,-gbops",
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
            pareto=_cost(pareto),
            settings=settings(ctx),
            where=where,
            sort=listed(sort),
        )
    _save(ranked, path, style, look, force=force)


def _save(ranked: Board, path: Path, style: str | None, look: Look, *, force: bool) -> None:
    from lsqctl.api import board as api

    _warn_raw(look)
    size = api.export(ranked, path, style=style, look=look, force=force)
    say(f"{path}: {counted(len(ranked.entries), 'row')}, {size} bytes")


def _warn_raw(look: Look) -> None:
    if look.raw:
        warn("--raw leaves texts that a spreadsheet may run as formulas")


def _pwc(ctx: typer.Context, chosen: str, **how: Any) -> None:
    """Print the board in the form of a Papers With Code page."""
    from lsqctl.api.board import LINE_FORMATS, page_view
    from lsqctl.cli.board_table import draw
    from lsqctl.leaderboard.page_lines import lines_table

    if chosen not in ("table", *LINE_FORMATS):
        raise UsageError(f"--view pwc is printed as table, csv, json or md, not as {chosen}")
    with workspace(ctx) as store:
        lines = page_view(store, **how)
    if chosen == "table":
        draw([lines_table(lines)])
    else:
        sys.stdout.write(LINE_FORMATS[chosen](lines))


def _cost(pareto: str) -> Cost:
    """Return the column that the second axis of --pareto names."""
    return "size_bytes" if pareto.endswith("-size_bytes") else "gbops"


def _draw(ranked: Board, look: Look, *, filtered: bool) -> None:
    from lsqctl.cli.board_table import draw
    from lsqctl.leaderboard.output import tables_of

    if filtered and not ranked.entries:
        say("no row is like that; `lsqctl leaderboard` without --where shows all")
    elif not any(table.counts.groups for table in ranked.tables):
        say("no finished run yet; `lsqctl submit RECIPE`, then `lsqctl worker --until-empty`")
    draw(tables_of(ranked, look))
