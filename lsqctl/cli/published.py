"""`published ls|add|rm|import`: published results to compare with, each with its source."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lsqctl.cli.console import note, print_json, print_table, say, to_json_types, warn
from lsqctl.cli.groups import CommandGroup
from lsqctl.cli.options import Json, any_int, get_settings, positive_int
from lsqctl.errors import NotFound, UsageError
from lsqctl.text import did_you_mean, pluralize

if TYPE_CHECKING:
    from lsqctl.leaderboard.published_results import PublishedResult, PwcRow

app = typer.Typer(
    cls=CommandGroup,
    help="Published results to compare with, each with its source.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_import_app = typer.Typer(
    cls=CommandGroup, help="Import published results.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(_import_app, name="import")

MAX_LISTED = 10
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be added; add nothing.")]


def _percent_value(text: str | float) -> float:
    """Parse a number; whether it is a percentage, the row itself says."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"must be a number of percent, got `{text}`") from None


@app.command("ls", epilog="Example: lsqctl published ls --dataset imagenet --arch resnet50")
def list_published(
    ctx: typer.Context,
    dataset: Annotated[str | None, typer.Option(help="Only of this dataset.")] = None,
    arch: Annotated[str | None, typer.Option(help="Only of this network.")] = None,
    method: Annotated[str | None, typer.Option(help="Only of this method.")] = None,
    source_kind: Annotated[
        Literal["paper", "readme", "page"] | None,
        typer.Option("--source-kind", help="Only from this kind of source."),
    ] = None,
    page: Annotated[str | None, typer.Option(help="Only of this set of rows.")] = None,
    json: Json = False,
) -> None:
    """List published results, shipped and added."""
    from lsqctl.leaderboard.published_results import load_bundled_results
    from lsqctl.services.published_results import load_published_results, load_workspace_results

    results = load_published_results(get_settings(ctx))
    bundled = set(load_bundled_results())
    filters = {"dataset": dataset, "arch": arch, "method": method}
    for field, value in (filters | {"source_kind": source_kind, "page": page}).items():
        results = _filter_results(results, field, value)
    not_on_board = []
    if not any((arch, method, source_kind, page)):  # which imported rows do not tell
        imported = load_workspace_results(get_settings(ctx)).pwc_rows
        not_on_board = _not_on_board(imported, dataset)
    if json:
        rows = [{**to_json_types(result), "bundled": result in bundled} for result in results]
        print_json({"published": rows, "not_on_board": not_on_board})
        return
    _print_results(results, bundled)
    hidden_hint = (
        f"; {len(not_on_board)} imported results are not for the board, --json lists them"
        if not_on_board
        else ""
    )
    note(f"{len(results)} published results; --json adds the words each was read from{hidden_hint}")


def _print_results(results: Iterable[PublishedResult], bundled: set[PublishedResult]) -> None:
    print_table(
        ("dataset", "model", "W", "A", "Top-1 %", "FP %", "source", "set", "where"),
        [
            (
                result.dataset,
                result.model,
                str(result.weight_bits),
                str(result.act_bits),
                f"{result.top1:g}",
                "" if result.fp32_top1 is None else f"{result.fp32_top1:g}",
                result.source_kind,
                result.page if result in bundled else result.page or "added here",
                result.source_url,
            )
            for result in results
        ],
        right_aligned=("W", "A", "Top-1 %", "FP %"),
        hide_first=("set", "FP %"),
    )


def _filter_results(
    results: list[PublishedResult], field: str, value: str | None
) -> list[PublishedResult]:
    if value is None:
        return results
    values = {getattr(result, field) for result in results} - {""}
    matching = [
        result for result in results if getattr(result, field).casefold() == value.casefold()
    ]
    if not matching:
        listed_values = ", ".join(sorted(values)[:MAX_LISTED])
        hint = did_you_mean(value, values) or (
            f"; there are {listed_values}" if listed_values else ""
        )
        raise NotFound(f"no published result has {field.replace('_', '-')} `{value}`{hint}")
    return matching


def _not_on_board(rows: Iterable[PwcRow], dataset: str | None) -> list[dict[str, object]]:
    """Return the imported rows of a dataset that do not amount to a row of the board, and why."""
    from lsqctl.leaderboard.published_results import dataset_key, to_published_result

    return [
        {**to_json_types(row), "dataset_key": dataset_key(row.dataset), "reason": reason}
        for row in rows
        if dataset in (None, row.dataset, dataset_key(row.dataset))
        and isinstance(reason := to_published_result(row), str)
    ]


@app.command(
    epilog="Example: lsqctl published add --dataset cifar10 --model 'ResNet-20' --weight-bits 4 "
    "--act-bits 4 --top1 91.9 --source-kind paper --source-url https://arxiv.org --quote 'W4: 91.9'"
)
def add(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Option(help="As recipes spell it: imagenet, cifar10.")],
    model: Annotated[str, typer.Option(help="What the source calls the row.")],
    weight_bits: Annotated[int, typer.Option(parser=any_int, metavar="N", help="2..8; 32: none.")],
    act_bits: Annotated[int, typer.Option(parser=any_int, metavar="N", help="2..8; 32: none.")],
    top1: Annotated[
        float, typer.Option(parser=_percent_value, metavar="%", help="Top-1, in percent.")
    ],
    source_kind: Annotated[
        Literal["paper", "readme", "page"], typer.Option(help="What it was read in.")
    ],
    source_url: Annotated[str, typer.Option(help="URL or file that it was read in.")],
    quote: Annotated[str, typer.Option(help="The words that the number was read from.")],
    arch: Annotated[str, typer.Option(help="Network, as recipes spell it.")] = "",
    method: Annotated[str, typer.Option(help="How it was quantized: LSQ, PACT …")] = "",
    top5: Annotated[
        float | None, typer.Option(parser=_percent_value, metavar="%", help="Top-5, in percent.")
    ] = None,
    fp32_top1: Annotated[
        float | None,
        typer.Option(parser=_percent_value, metavar="%", help="Top-1 of its full-precision start."),
    ] = None,
    n_total: Annotated[
        int | None,
        typer.Option(parser=positive_int, metavar="N", help="Images evaluated; gives an interval."),
    ] = None,
    page: Annotated[str, typer.Option(help="A name for a set of rows.")] = "",
    notes: Annotated[str, typer.Option(help="Remarks.")] = "",
    overwrite: Annotated[
        bool, typer.Option("--replace", help="In place of an added row of this name.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Add a published result to this workspace, with its source.

    Twice the same is once.
    """
    from lsqctl.datasets import DATASETS
    from lsqctl.leaderboard.published_results import PublishedResult
    from lsqctl.services.published_results import add_published_result

    try:
        result = PublishedResult(
            dataset=dataset,
            model=model,
            arch=arch,
            method=method,
            weight_bits=weight_bits,
            act_bits=act_bits,
            top1=top1,
            source_kind=source_kind,
            source_url=source_url,
            quote=quote,
            top5=top5,
            fp32_top1=fp32_top1,
            n_total=n_total,
            page=page,
            notes=notes,
        )
    except ValueError as error:
        raise UsageError(f"{error}; nothing was added") from None
    if dataset not in DATASETS and (hint := did_you_mean(dataset, DATASETS)):
        warn(f"no recipe can name the dataset `{dataset}`{hint}")
    outcome = add_published_result(get_settings(ctx), result, overwrite=overwrite, dry_run=dry_run)
    if json:
        print_json({"outcome": outcome, "dry_run": dry_run, "published_result": result})
        return
    if outcome == "exists":
        message = "is there already"
    else:
        message = f"would be {outcome}; nothing was changed" if dry_run else outcome
    say(f"{model} ({dataset}): {message}; next: lsqctl leaderboard --dataset {dataset}")


@_import_app.command(
    epilog="Example: lsqctl published import pwc evaluation-tables.json.gz --task Quantization "
    "--dataset ImageNet"
)
def pwc(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="evaluation-tables.json, or .json.gz.")],
    task: Annotated[str | None, typer.Option(help="Its task; without it, list them.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Its dataset; without, list them.")] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Import one table of the Papers With Code archive.

    CC-BY-SA 4.0, which each row keeps.

    Rows that the board cannot show (no Top-1, no bits) are kept as well: `leaderboard --view pwc`.
    """
    from lsqctl.leaderboard.pwc_archive import ARCHIVE_LICENCE
    from lsqctl.services.published_results import import_pwc_table

    if task is None or dataset is None:
        _list_tables(file, task, dataset, json=json)
        raise typer.Exit(2)
    report = import_pwc_table(get_settings(ctx), file, task=task, dataset=dataset, dry_run=dry_run)
    if json:
        print_json(to_json_types(report), dry_run=dry_run, licence=ARCHIVE_LICENCE)
        return
    for text in report.warnings[:MAX_LISTED]:
        warn(text)
    if len(report.warnings) > MAX_LISTED:
        warn(f"{len(report.warnings) - MAX_LISTED} more like these; --json lists them")
    verb = "would be imported" if dry_run else "imported"
    rows = f"{pluralize(len(report.rows), 'row')} {verb}"
    say(
        f"{report.task} on {report.dataset}: {rows}, {report.n_existing} were there "
        f"already; licence {ARCHIVE_LICENCE}; next: lsqctl leaderboard --view pwc"
    )


def _list_tables(file: Path, task: str | None, dataset: str | None, *, json: bool) -> None:
    from lsqctl.services.published_results import list_archive_tables

    tables = list_archive_tables(file)
    for field, word in (("task", task), ("dataset", dataset)):
        names = {getattr(table, field) for table in tables}
        if word is not None and word.casefold() not in {name.casefold() for name in names}:
            raise NotFound(f"{file} has no {field} `{word}`{did_you_mean(word, names)}")
    matching = [
        table
        for table in tables
        if (task is None or table.task.casefold() == task.casefold())
        and (dataset is None or table.dataset.casefold() == dataset.casefold())
    ]
    if json:
        print_json({"tables": matching})
    else:
        print_table(
            ("task", "dataset", "rows"),
            [(table.task, table.dataset, str(table.n_rows)) for table in matching],
            right_aligned=("rows",),
        )
    say("nothing was imported: name one of these with --task and --dataset")


def register_rm(app: typer.Typer) -> None:
    """Add the command to `published`."""
    app.command("rm", epilog="Example: lsqctl published rm 'ResNet-20' --dry-run")(remove)


def remove(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="What the row is called.")],
    dataset: Annotated[str | None, typer.Option(help="Only the row of this dataset.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go.")] = False,
    json: Json = False,
) -> None:
    """Take out rows that were added or imported here.

    Those that ship with lsqctl stay.
    """
    from lsqctl.services.published_results import remove_published_results

    removed = remove_published_results(get_settings(ctx), model, dataset=dataset, dry_run=dry_run)
    if json:
        print_json({"removed": not dry_run, "rows": removed})
        return
    for result in removed:
        outcome = "would be removed; nothing was" if dry_run else "removed"
        say(f"{result.model} ({result.dataset}): {outcome}")
