"""`data fetch`: download datasets."""

from __future__ import annotations

from typing import Annotated

import typer

from lsqctl.cli.render import say
from lsqctl.cli.state import get_settings

data_app = typer.Typer(help="Datasets.", no_args_is_help=True, rich_markup_mode=None)


@data_app.callback()
def data_group() -> None:
    """Datasets."""


@data_app.command(epilog="Example: lsqctl data fetch cifar10")
def fetch(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="DATASET", help="Dataset names.")],
) -> None:
    """Download datasets into the data folder, checked by their digests."""
    from lsqctl.api.data import download_dataset as fetch_one

    for name in names:
        folder = fetch_one(name, get_settings(ctx), notify=say)
        say(f"{name}: {folder}" if folder else f"{name} is bundled; nothing to fetch")
