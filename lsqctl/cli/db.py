"""`db upgrade|check|backup`: the database's schema, soundness and copies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lsqctl.cli.render import print_json, say
from lsqctl.cli.state import Json, settings, workspace
from lsqctl.errors import StoreError
from lsqctl.wording import counted

app = typer.Typer(help="The database.", no_args_is_help=True, rich_markup_mode=None)


@app.command(epilog="Example: lsqctl --db postgresql+psycopg://host/lsq db upgrade")
def upgrade(ctx: typer.Context) -> None:
    """Create the database, or bring it to this version's schema."""
    from lsqctl.api.workspace import make_home, open_workspace

    make_home(settings(ctx))
    store = open_workspace(settings(ctx), create=True)
    say(f"{store.url}: schema {store.schema_version()}")
    store.close()


@app.command(epilog="Example: lsqctl db check")
def check(ctx: typer.Context, json: Json = False) -> None:
    """Check integrity, foreign keys and schema; exit 4 when something is wrong."""
    with workspace(ctx) as store:
        wrong = store.check()
        version = store.schema_version()
    if json:
        print_json({"schema": version, "findings": wrong})
    else:
        for text in wrong:
            say(text)
    if wrong:
        raise StoreError(f"{len(wrong)} findings; restore a backup if rows are lost")
    if not json:
        say(f"schema {version}: sound")


@app.command(epilog="Example: lsqctl db backup")
def backup(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Default: backups/ in the workspace, by date."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    json: Json = False,
) -> None:
    """Copy the database while others use it, and check the copy (db/README.md: restoring)."""
    from lsqctl.api.backup import back_up

    with workspace(ctx) as store:
        made = back_up(store, settings(ctx), file, force=force)
    if json:
        print_json({"backup": made})
    else:
        print(made.path)
        say(f"{counted(made.runs, 'run')}, {made.size_bytes} bytes, schema {made.schema}: sound")
