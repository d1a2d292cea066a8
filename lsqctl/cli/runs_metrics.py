"""`runs metrics`: the series of measured numbers of runs, for other tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from lsqctl.cli.console import say
from lsqctl.cli.options import RunArguments, open_store
from lsqctl.cli.serve import Force
from lsqctl.errors import UsageError
from lsqctl.text import pluralize


def register(app: typer.Typer) -> None:
    """Add the command of this module to `runs`."""
    app.command(epilog="Example: lsqctl runs metrics @last --name top1 --format csv")(metrics)


def metrics(
    ctx: typer.Context,
    run_refs: RunArguments,
    name: Annotated[str | None, typer.Option(help="Only this metric, as top1.")] = None,
    split: Annotated[str | None, typer.Option(help="Only of this split, as train.")] = None,
    output_format: Annotated[
        Literal["csv", "json", "parquet"] | None,
        typer.Option("--format", help="Default: by the file's ending, else csv."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file instead of the terminal.")
    ] = None,
    force: Force = False,
) -> None:
    """Write each measured number of runs, a row a point.

    Run, name, seed, metric, split, step.
    """
    from lsqctl.atomic_write import write_atomic
    from lsqctl.services.metric_series import metric_points, write_points

    chosen = output_format or _format_of(output)
    if chosen == "parquet" and output is None:
        raise UsageError("Parquet is no text: name a file with -o")
    with open_store(ctx) as store:
        points = metric_points(store, run_refs, name=name, split=split)
    data = write_points(points, chosen)
    if output is None:
        sys.stdout.write(data.decode())
        return
    write_atomic(output, data, force=force)
    say(f"{output}: {pluralize(len(points), 'point')}, {len(data)} bytes")


def _format_of(output: Path | None) -> Literal["csv", "json", "parquet"]:
    match output.suffix.lower() if output else ".csv":
        case ".csv":
            return "csv"
        case ".json":
            return "json"
        case ".parquet":
            return "parquet"
    raise UsageError(f"{output}: no format ends so; say --format csv, json or parquet")
