"""`leaderboard` and `export`, and their options: what the runs have come to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lsqctl.cli import completion
from lsqctl.cli.console import say, warn
from lsqctl.cli.options import (
    Json,
    OnlyOwn,
    format_name,
    get_settings,
    open_store,
    open_store_if_any,
    positive_int,
)
from lsqctl.cli.serve import (
    ClassifyFolder,
    Dataset,
    Force,
    HtmlFile,
    ShowPublished,
    write_html_page,
)
from lsqctl.errors import UsageError
from lsqctl.settings import current_user
from lsqctl.text import pluralize

if TYPE_CHECKING:
    from lsqctl.leaderboard.board import Board
    from lsqctl.leaderboard.output import OutputOptions
    from lsqctl.leaderboard.rank import Cost
    from lsqctl.services.board import BoardSelection


BoardWhere = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="FILTER",
        help="Only rows like this: \"weight_bits <= 4 and arch ~ 'resnet'\".",
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
    typer.Option("--deviations", help="Under each local row, where it deviates from the paper."),
]
GroupBy = Annotated[
    str,
    typer.Option(
        metavar="COLUMN,…",
        help="A table of each combination of values.",
        autocompletion=completion.columns,
    ),
]
Sort = Annotated[
    str,
    typer.Option(
        metavar="[-]COLUMN,…",
        help="Order of rows; `-` for the largest first.",
        autocompletion=completion.columns,
    ),
]
Columns = Annotated[
    str,
    typer.Option(
        metavar="COLUMN,…", help="These columns of docs/csv.md.", autocompletion=completion.columns
    ),
]
PivotSpec = Annotated[
    str,
    typer.Option(
        "--pivot",
        metavar="ROW,COLUMN[,VALUE]",
        help="Cross two columns: arch,bits or arch,weight_bits.",
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


def output_options(
    columns: str, pivot: str, *, raw: bool, excel: Literal["", ",", ";"] = ""
) -> OutputOptions:
    """Return how the board is written.  Raises UsageError."""
    from lsqctl.leaderboard.output import OutputOptions
    from lsqctl.leaderboard.pivot import Pivot

    pivot_columns = split_commas(pivot)
    if pivot and len(pivot_columns) not in (2, 3):
        raise UsageError(f"--pivot takes ROW,COLUMN or ROW,COLUMN,VALUE, got `{pivot}`")
    return OutputOptions(
        split_commas(columns), Pivot(*pivot_columns) if pivot_columns else None, raw, excel
    )


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the top level."""
    app.command(epilog='Example: lsqctl leaderboard --where "weight_bits <= 4" --sort -top1_mean')(
        leaderboard
    )
    app.command(epilog="Example: lsqctl export board.csv")(export)


def leaderboard(
    ctx: typer.Context,
    dataset: Dataset = None,
    where: BoardWhere = None,
    only_own: OnlyOwn = False,
    columns: Columns = "",
    sort: Sort = "",
    group_by: GroupBy = "",
    pivot: PivotSpec = "",
    limit: Limit = None,
    output_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            parser=format_name,
            metavar="FORMAT",
            help="table, csv, json, md, html, latex, … (docs/views.md lists all).",
            autocompletion=completion.formats,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file; its ending tells the format.")
    ] = None,
    force: Force = False,
    show_published: ShowPublished = "auto",
    per_run: PerRun = False,
    best_seed: BestSeed = False,
    pareto: Pareto = "top1,-gbops",
    deviations: Deviations = False,
    view: View = "board",
    raw: Raw = False,
    json: Json = False,
    html: HtmlFile = None,
    classify: ClassifyFolder = None,
) -> None:
    """Rank results, with published ones, by Top-1.

    Mean over seeds, interval, difference to full precision, size, source.
    """
    from lsqctl.leaderboard.board_query import BoardQuery
    from lsqctl.leaderboard.output import format_board
    from lsqctl.services.board import AS_RANKED, BoardSelection, board_filter, build_board

    options = output_options(columns, pivot, raw=raw)
    chosen_format = "json" if json else output_format
    selection = BoardSelection(dataset, show_published, per_run, best_seed, _cost_column(pareto))
    row_filter = board_filter(where, user=current_user() if only_own else None)
    query = BoardQuery(row_filter, split_commas(group_by), split_commas(sort), limit)
    shaped = options.columns or options.pivot
    if view == "pwc":
        if shaped or query != AS_RANKED or output or html or deviations:
            raise UsageError("--view pwc has a form of its own; --dataset and --format fit it")
        _print_pwc_view(ctx, chosen_format or "table", selection)
        return
    if html and (output or output_format or json or shaped or raw):
        raise UsageError(
            "--html writes the whole page: no --json, --format, --output, --columns, --pivot, --raw"
        )
    if classify and not html:
        raise UsageError("--classify is for the page: add --html FILE")
    opened = open_store(ctx) if html else open_store_if_any(ctx)
    with opened as store:
        ranked = build_board(store, selection, query, settings=get_settings(ctx))
        if deviations and store:
            from lsqctl.services.diff import with_deviations  # reads recipes, which takes longer

            ranked = with_deviations(ranked, store)
        if html is not None and store:
            write_html_page(store, ranked, html, force=force, classify=classify)
            return
    if output is not None:
        _write_board(ranked, output, chosen_format, options, force=force)
    elif chosen_format in (None, "table"):
        _print_board(ranked, options, is_filtered=bool(where) or only_own)
    else:
        _warn_raw(options)
        sys.stdout.write(format_board(ranked, str(chosen_format), options))


def export(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="A file: .csv, .json, .md, .html or .tex.")],
    dataset: Dataset = None,
    where: BoardWhere = None,
    only_own: OnlyOwn = False,
    columns: Columns = "",
    sort: Sort = "",
    pivot: PivotSpec = "",
    output_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            parser=format_name,
            metavar="FORMAT",
            help="Another format than the ending tells.",
            autocompletion=completion.formats,
        ),
    ] = None,
    show_published: ShowPublished = "auto",
    per_run: PerRun = False,
    best_seed: BestSeed = False,
    pareto: Pareto = "top1,-gbops",
    raw: Raw = False,
    excel: Annotated[
        bool,
        typer.Option("--excel", help="CSV that Excel opens: marked as UTF-8, the locale's commas."),
    ] = False,
    force: Force = False,
) -> None:
    """Write the leaderboard to a file, by its ending."""
    from lsqctl.leaderboard.board_query import BoardQuery
    from lsqctl.services.board import BoardSelection, board_filter, build_board

    options = output_options(columns, pivot, raw=raw, excel=_locale_separator() if excel else "")
    selection = BoardSelection(dataset, show_published, per_run, best_seed, _cost_column(pareto))
    row_filter = board_filter(where, user=current_user() if only_own else None)
    query = BoardQuery(row_filter, sort=split_commas(sort))
    with open_store_if_any(ctx) as store:
        ranked = build_board(store, selection, query, settings=get_settings(ctx))
    _write_board(ranked, path, output_format, options, force=force)


def _locale_separator() -> Literal[",", ";"]:
    """Return what parts fields where the user is: a semicolon where a comma parts the digits."""
    import locale

    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        locale.setlocale(locale.LC_NUMERIC, "")
        return ";" if locale.localeconv()["decimal_point"] == "," else ","
    except locale.Error:  # of a locale that this machine does not have
        return ","
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)


def _write_board(
    ranked: Board, path: Path, output_format: str | None, options: OutputOptions, *, force: bool
) -> None:
    from lsqctl.services import board as api

    _warn_raw(options)
    size = api.export_board(ranked, path, output_format=output_format, options=options, force=force)
    say(f"{path}: {pluralize(len(ranked.entries), 'row')}, {size} bytes")


def _warn_raw(options: OutputOptions) -> None:
    if options.raw:
        warn("--raw leaves texts that a spreadsheet may run as formulas")


def _print_pwc_view(ctx: typer.Context, output_format: str, selection: BoardSelection) -> None:
    """Print the board in the form of a Papers With Code page."""
    from lsqctl.cli.table import print_tables
    from lsqctl.leaderboard.pwc_view import pwc_table
    from lsqctl.services.board import PWC_FORMATS, build_pwc_view

    if output_format not in ("table", *PWC_FORMATS):
        raise UsageError(f"--view pwc is printed as table, csv, json or md, not as {output_format}")
    with open_store_if_any(ctx) as store:
        lines = build_pwc_view(store, get_settings(ctx), selection)
    if output_format == "table":
        print_tables([pwc_table(lines)])
    else:
        sys.stdout.write(PWC_FORMATS[output_format](lines))


def _cost_column(pareto: str) -> Cost:
    """Return the column that the second axis of --pareto names."""
    return "size_bytes" if pareto.endswith("-size_bytes") else "gbops"


def _print_board(ranked: Board, options: OutputOptions, *, is_filtered: bool) -> None:
    from lsqctl.cli.table import print_tables
    from lsqctl.leaderboard.output import board_tables

    if is_filtered and not ranked.entries:
        say("no row is like that; `lsqctl leaderboard` without --where shows all")
    elif not any(table.counts.groups for table in ranked.tables):
        say("no finished run yet; `lsqctl submit RECIPE`, then `lsqctl worker --until-empty`")
    print_tables(board_tables(ranked, options))
