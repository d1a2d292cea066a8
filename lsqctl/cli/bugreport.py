"""`bugreport`: one redacted file to attach to an issue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lsqctl.cli import completing
from lsqctl.cli.render import print_json, say
from lsqctl.cli.state import Json, origins, settings


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command(epilog="Example: lsqctl bugreport --run @last")(bugreport)


def bugreport(
    ctx: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE.zip", help="Default: here, named by the time."
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Add a run: recipe, attempts, events, the end of each log.",
            autocompletion=completing.runs,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    json: Json = False,
) -> None:
    """Write versions, settings, findings and the queue's state to a zip file, without secrets.

    Works without a workspace, with a broken database, and offline; nothing is sent.
    """
    from lsqctl.api.bugreport import write_report

    made = write_report(settings(ctx), output, origins=origins(ctx), run=run, force=force)
    if json:
        print_json({"bugreport": made})
        return
    print(made.path)
    for one in made.members:
        say(f"  {one.name}, {one.size_bytes} bytes")
    say(
        f"{len(made.members)} files, {made.size_bytes} bytes zipped; look through them before you "
        f"send them: unzip -c {made.path} | less"
    )
