"""`doctor`: look the installation and the workspace over."""

from __future__ import annotations

import typer

from lsqctl.cli.render import print_json, print_table
from lsqctl.cli.state import Json, get_settings

_LEVEL_STYLES = {"ok": "green", "warning": "yellow", "error": "red"}


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command(epilog="Example: lsqctl doctor")(doctor)


def doctor(ctx: typer.Context, json: Json = False) -> None:
    """Check Python, libraries, devices, disk, data and database; exit 1 on an error."""
    from lsqctl.api.doctor import diagnose

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
