"""`references ls|add|import`: published rows to compare with, each with its source."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lsqctl.cli.render import note, plain, print_json, print_table, say, warn
from lsqctl.cli.state import Json, positive, settings, whole
from lsqctl.errors import NotFound, UsageError, did_you_mean
from lsqctl.wording import counted

if TYPE_CHECKING:
    from lsqctl.leaderboard.published import PublishedRow
    from lsqctl.leaderboard.references import Reference

app = typer.Typer(
    help="Published rows to compare with, each with its source.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_imports = typer.Typer(help="Import published rows.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(_imports, name="import")

SHOWN_WARNINGS = 10
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be added; add nothing.")]


def _percent(text: str | float) -> float:
    """Parse a number; whether it is a percentage, the row itself says."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"must be a number of percent, got `{text}`") from None


@app.command("ls", epilog="Example: lsqctl references ls --dataset imagenet --arch resnet50")
def list_references(
    ctx: typer.Context,
    dataset: Annotated[str | None, typer.Option(help="Only of this dataset.")] = None,
    arch: Annotated[str | None, typer.Option(help="Only of this network.")] = None,
    method: Annotated[str | None, typer.Option(help="Only of this method.")] = None,
    source: Annotated[
        Literal["paper", "readme", "page"] | None,
        typer.Option("--source-kind", help="Only from this kind of source."),
    ] = None,
    page: Annotated[str | None, typer.Option(help="Only of this set of rows.")] = None,
    json: Json = False,
) -> None:
    """List published rows: those that ship with lsqctl and those added here."""
    from lsqctl.api.published import added_rows, all_references
    from lsqctl.leaderboard.references import load_references

    found = all_references(settings(ctx))
    bundled = set(load_references())
    narrowed = {"dataset": dataset, "arch": arch, "method": method}
    for field, value in (narrowed | {"source_kind": source, "page": page}).items():
        found = _narrow(found, field, value)
    kept = [] if any((arch, method, source, page)) else _kept(added_rows(settings(ctx)).rows)
    kept = [one for one in kept if dataset in (None, one["dataset"], one["dataset_key"])]
    if json:
        rows = [{**plain(one), "bundled": one in bundled} for one in found]
        print_json({"references": rows, "not_on_board": kept})
        return
    print_table(
        ("dataset", "model", "W", "A", "Top-1 %", "FP %", "source", "set", "where"),
        [
            (
                one.dataset,
                one.model,
                str(one.weight_bits),
                str(one.act_bits),
                f"{one.top1:g}",
                "" if one.fp32_top1 is None else f"{one.fp32_top1:g}",
                one.source_kind,
                one.page if one in bundled else one.page or "added here",
                one.source_url,
            )
            for one in found
        ],
        right=("W", "A", "Top-1 %", "FP %"),
        give_way=("set", "FP %"),
    )
    more = f"; {len(kept)} imported rows are not for the board, --json lists them" if kept else ""
    note(f"{len(found)} published rows; --json adds the words each was read from{more}")


def _narrow(found: list[Reference], field: str, value: str | None) -> list[Reference]:
    if value is None:
        return found
    known = {getattr(one, field) for one in found} - {""}
    chosen = [one for one in found if getattr(one, field).casefold() == value.casefold()]
    if not chosen:
        listed = ", ".join(sorted(known)[:SHOWN_WARNINGS])
        told = did_you_mean(value, known) or (f"; there are {listed}" if listed else "")
        raise NotFound(f"no published row has {field.replace('_', '-')} `{value}`{told}")
    return chosen


def _kept(rows: Iterable[PublishedRow]) -> list[dict[str, object]]:
    """Return the imported rows that do not amount to a row of the board, and why."""
    from lsqctl.leaderboard.published import as_reference, dataset_key

    pairs = ((row, as_reference(row)) for row in rows)
    return [
        {**plain(row), "dataset_key": dataset_key(row.dataset), "why": why}
        for row, why in pairs
        if isinstance(why, str)
    ]


@app.command(
    epilog="Example: lsqctl references add --dataset cifar10 --model 'ResNet-20 mine' --w-bits 4 "
    "--a-bits 4 --top1 91.9 --source-kind paper --source-url https://example.org --quote 'W4: 91.9'"
)
def add(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Option(help="As recipes spell it: imagenet, cifar10.")],
    model: Annotated[str, typer.Option(help="What the source calls the row.")],
    w_bits: Annotated[int, typer.Option(parser=whole, metavar="N", help="2..8; 32: none.")],
    a_bits: Annotated[int, typer.Option(parser=whole, metavar="N", help="2..8; 32: none.")],
    top1: Annotated[float, typer.Option(parser=_percent, metavar="%", help="Top-1, in percent.")],
    source_kind: Annotated[
        Literal["paper", "readme", "page"], typer.Option(help="What it was read in.")
    ],
    source_url: Annotated[str, typer.Option(help="URL or file that it was read in.")],
    quote: Annotated[str, typer.Option(help="The words that the number was read from.")],
    arch: Annotated[str, typer.Option(help="Network, as recipes spell it.")] = "",
    method: Annotated[str, typer.Option(help="How it was quantized: LSQ, PACT …")] = "",
    top5: Annotated[
        float | None, typer.Option(parser=_percent, metavar="%", help="Top-5, in percent.")
    ] = None,
    fp32_top1: Annotated[
        float | None,
        typer.Option(parser=_percent, metavar="%", help="Top-1 of its full-precision start."),
    ] = None,
    n_total: Annotated[
        int | None,
        typer.Option(parser=positive, metavar="N", help="Images evaluated; gives an interval."),
    ] = None,
    page: Annotated[str, typer.Option(help="A name for a set of rows.")] = "",
    notes: Annotated[str, typer.Option(help="Remarks.")] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="In place of an added row of this name.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Add a published row to this workspace, with its source; twice the same is once."""
    from lsqctl.api.published import add_reference
    from lsqctl.leaderboard.references import Reference
    from lsqctl.recipe.catalog import DATASETS

    try:
        reference = Reference(
            *(dataset, model, arch, method, w_bits, a_bits, top1, source_kind, source_url, quote),
            *(top5, fp32_top1, n_total, page, notes),
        )
    except ValueError as error:
        raise UsageError(f"{error}; nothing was added") from None
    if dataset not in DATASETS and (hint := did_you_mean(dataset, DATASETS)):
        warn(f"no recipe can name the dataset `{dataset}`{hint}")
    outcome = add_reference(settings(ctx), reference, replaces=replace, dry_run=dry_run)
    if json:
        print_json({"outcome": outcome, "dry_run": dry_run, "reference": reference})
        return
    told = {"added": "added", "known": "is there already", "replaced": "replaced"}[outcome]
    said = f"would be {told}; nothing was changed" if dry_run and outcome != "known" else told
    say(f"{model} ({dataset}): {said}; next: lsqctl leaderboard --dataset {dataset}")


@_imports.command(
    epilog="Example: lsqctl references import pwc evaluation-tables.json.gz --task Quantization "
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
    """Import one table of the Papers With Code archive (CC-BY-SA 4.0, which each row keeps).

    Rows that the board cannot show (no Top-1, no bits) are kept as well: `leaderboard --view pwc`.
    """
    from lsqctl.api.published import import_pwc
    from lsqctl.leaderboard.archive import LICENCE

    if task is None or dataset is None:
        _list_tables(file, task, dataset, json=json)
        raise typer.Exit(2)
    found = import_pwc(settings(ctx), file, task=task, dataset=dataset, dry_run=dry_run)
    if json:
        print_json(plain(found), dry_run=dry_run, licence=LICENCE)
        return
    for text in found.warnings[:SHOWN_WARNINGS]:
        warn(text)
    if len(found.warnings) > SHOWN_WARNINGS:
        warn(f"{len(found.warnings) - SHOWN_WARNINGS} more like these; --json lists them")
    verb = "would be imported" if dry_run else "imported"
    rows = f"{counted(len(found.rows), 'row')} {verb}"
    say(
        f"{found.task} on {found.dataset}: {rows}, {found.known} were there "
        f"already; licence {LICENCE}; next: lsqctl leaderboard --view pwc"
    )


def _list_tables(file: Path, task: str | None, dataset: str | None, *, json: bool) -> None:
    from lsqctl.api.published import contents

    every = contents(file)
    for field, word in (("task", task), ("dataset", dataset)):
        known = {getattr(one, field) for one in every}
        if word is not None and word.casefold() not in {name.casefold() for name in known}:
            raise NotFound(f"{file} has no {field} `{word}`{did_you_mean(word, known)}")
    shown = [
        one
        for one in every
        if (task is None or one.task.casefold() == task.casefold())
        and (dataset is None or one.dataset.casefold() == dataset.casefold())
    ]
    if json:
        print_json({"tables": shown})
    else:
        print_table(
            ("task", "dataset", "rows"),
            [(one.task, one.dataset, str(one.rows)) for one in shown],
            right=("rows",),
        )
    say("nothing was imported: name one of these with --task and --dataset")
