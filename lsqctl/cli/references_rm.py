"""`references rm`: take out published rows that were added to a workspace."""

from __future__ import annotations

from typing import Annotated

import typer

from lsqctl.cli.render import print_json, say
from lsqctl.cli.state import Json, get_settings


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
    """Take out rows that were added or imported here; those that ship with lsqctl stay."""
    from lsqctl.api.published import remove_published_results

    removed = remove_published_results(get_settings(ctx), model, dataset=dataset, dry_run=dry_run)
    if json:
        print_json({"removed": not dry_run, "rows": removed})
        return
    for result in removed:
        outcome = "would be removed; nothing was" if dry_run else "removed"
        say(f"{result.model} ({result.dataset}): {outcome}")
