"""`doctor` and `bugreport`: examine installation and workspace, pack them for an issue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lsqctl.cli import completion
from lsqctl.cli.console import print_json, print_table, say
from lsqctl.cli.context import Json, get_settings, setting_sources

_LEVEL_STYLES = {"ok": "green", "warning": "yellow", "error": "red"}


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command(epilog="Example: lsqctl doctor")(doctor)


def doctor(ctx: typer.Context, json: Json = False) -> None:
    """Check Python, libraries, devices, disk, data and database; exit 1 on an error."""
    from lsqctl.services.doctor import diagnose

    findings = diagnose(get_settings(ctx))
    if json:
        print_json({"findings": findings})
    else:
        print_table(
            ("", "finding", "fix"),
            [(finding.level, finding.message, finding.fix) for finding in findings],
            styles=_LEVEL_STYLES,
        )
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


def register_bugreport(app: typer.Typer) -> None:
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
            autocompletion=completion.runs,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    json: Json = False,
) -> None:
    """Write versions, settings, findings and the queue's state to a zip file, without secrets.

    Works without a workspace, with a broken database, and offline; nothing is sent.
    """
    from lsqctl.services.bugreport import write_bug_report

    report = write_bug_report(
        get_settings(ctx), output, sources=setting_sources(ctx), run_ref=run, force=force
    )
    if json:
        print_json({"bugreport": report})
        return
    print(report.path)
    for member in report.members:
        say(f"  {member.name}, {member.size_bytes} bytes")
    say(
        f"{len(report.members)} files, {report.size_bytes} bytes zipped; read through them before "
        f"you send them: unzip -c {report.path} | less"
    )
