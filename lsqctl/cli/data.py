"""`data fetch`: download datasets."""

from __future__ import annotations

from typing import Annotated

import typer

from lsqctl.cli.render import say
from lsqctl.cli.state import settings

app = typer.Typer(help="Datasets.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Datasets."""


@app.command(epilog="Example: lsqctl data fetch cifar10")
def fetch(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="DATASET", help="Dataset names.")],
) -> None:
    """Download datasets into the data folder, checked by their digests."""
    from lsqctl.api.data import fetch as fetch_one

    for name in names:
        folder = fetch_one(name, settings(ctx), say=say)
        say(f"{name}: {folder}" if folder else f"{name} is bundled; nothing to fetch")
