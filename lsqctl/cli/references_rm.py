"""`references rm`: take out published rows that were added to a workspace."""

from __future__ import annotations

from typing import Annotated

import typer

from lsqctl.cli.render import print_json, say
from lsqctl.cli.state import Json, settings


def register(app: typer.Typer) -> None:
    """Add the command to `references`."""
    app.command("rm", epilog="Example: lsqctl references rm 'ResNet-20 mine' --dry-run")(remove)


def remove(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="What the row is called.")],
    dataset: Annotated[str | None, typer.Option(help="Only the row of this dataset.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go.")] = False,
    json: Json = False,
) -> None:
    """Take out rows that were added or imported here; those that ship with lsqctl stay."""
    from lsqctl.api.published import remove_references

    gone = remove_references(settings(ctx), model, dataset=dataset, dry_run=dry_run)
    if json:
        print_json({"removed": not dry_run, "rows": gone})
        return
    for one in gone:
        said = "would be removed; nothing was" if dry_run else "removed"
        say(f"{one.model} ({one.dataset}): {said}")
