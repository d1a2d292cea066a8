"""`plugins ls|trust|check`: your own models, datasets and formats of the board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lsqctl.cli.console import print_json, print_table, say, warn
from lsqctl.cli.groups import CommandGroup
from lsqctl.cli.options import Json, get_settings
from lsqctl.errors import PluginError
from lsqctl.settings import plugins_enabled
from lsqctl.text import pluralize

app = typer.Typer(
    cls=CommandGroup,
    help="Your own models, datasets and formats of the board.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("ls", epilog="Example: lsqctl plugins ls")
def list_plugins(ctx: typer.Context, json: Json = False) -> None:
    """List what plugins declare, and where; nothing is imported.

    With package, version, file and digest.
    """
    from lsqctl.services import plugins as api

    get_settings(ctx)
    rows = api.list_plugins()
    if json:
        print_json({"plugins": rows})
        return
    print_table(
        ("name", "kind", "package", "version", "sha256", "file", "problem"),
        [
            (r.name, r.kind, r.package, r.version, r.sha256[:12], str(r.path), r.problem)
            for r in rows
        ],
    )
    if not plugins_enabled():
        say("plugins are switched off: LSQCTL_PLUGINS is 0")
    elif not rows:
        say("no plugin here; docs/plugins.md says how to write one")


@app.command(epilog="Example: lsqctl plugins trust .lsqctl/plugins/flowers.py")
def trust(
    ctx: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Files in the workspace's plugins/.")
    ],
) -> None:
    """Let a file of the workspace be imported as it is now.

    A changed one must be trusted anew.

    It is code, and will run as you: read it first.
    """
    from lsqctl.services import plugins as api

    get_settings(ctx)
    for file in files:
        path, sha256 = api.trust_plugin(file)
        rows = [row for row in api.list_plugins() if row.path.samefile(path)]
        print(f"{sha256}\t{path}")
        declared = ", ".join(row.name for row in rows if not row.problem)
        problems = "; ".join(row.problem for row in rows if row.problem)
        say(f"trusted: {path.name} declares {declared or 'nothing that can be used'}")
        if problems:
            warn(problems)


@app.command(epilog="Example: lsqctl plugins check flowers/tinynet")
def check(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="PLUGIN/NAME; left out: all that there are."),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Pixels a side to try networks on; left out: 32, else 224."),
    ] = None,
    json: Json = False,
) -> None:
    """Ask whether what plugins declare keeps its laws.

    Those of lsqctl.testing; exit 1 where not.
    """
    from lsqctl.services import plugins as api

    checked = list(api.check_plugins(names or [], get_settings(ctx), image_size=image_size))
    if json:
        print_json({"laws": checked})
    else:
        print_table(
            ("", "name", "law", "problem"),
            [("broken" if c.problem else "kept", c.name, c.law, c.problem) for c in checked],
            styles={"kept": "green", "broken": "red"},
        )
    broken = [law for law in checked if law.problem]
    if broken:
        raise PluginError(f"{pluralize(len(broken), 'law')} of {len(checked)} broken")
    if not json:
        say(f"{pluralize(len(checked), 'law')} kept")
