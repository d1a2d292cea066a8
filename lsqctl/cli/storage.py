"""`db upgrade|check|backup` and `data ls|fetch`: the workspace's database and datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lsqctl.cli.console import print_json, print_table, say
from lsqctl.cli.context import Json, get_settings, open_store
from lsqctl.cli.groups import CommandGroup
from lsqctl.errors import StoreError
from lsqctl.text import pluralize

db_app = typer.Typer(
    cls=CommandGroup, help="The database.", no_args_is_help=True, rich_markup_mode=None
)


@db_app.command(epilog="Example: lsqctl --db postgresql+psycopg://host/lsq db upgrade")
def upgrade(ctx: typer.Context) -> None:
    """Create the database, or bring it to this version's schema."""
    from lsqctl.services.workspace import create_workspace, open_workspace

    create_workspace(get_settings(ctx))
    store = open_workspace(get_settings(ctx), create=True)
    say(f"{store.url}: schema {store.maintenance.schema_version()}")
    store.close()


@db_app.command(epilog="Example: lsqctl db check")
def check(ctx: typer.Context, json: Json = False) -> None:
    """Check integrity, foreign keys and schema; exit 4 when something is wrong."""
    from lsqctl.services.gc import unknown_run_dirs

    with open_store(ctx) as store:
        findings = store.maintenance.check()
        if unknown := unknown_run_dirs(store, get_settings(ctx)):
            findings.append(f"the database knows none of the {pluralize(unknown, 'run folder')}")
        version = store.maintenance.schema_version()
    if json:
        print_json({"schema": version, "findings": findings})
    else:
        for finding in findings:
            say(finding)
    if findings:
        raise StoreError(f"{len(findings)} findings; restore a backup if rows are lost")
    if not json:
        say(f"schema {version}: sound")


@db_app.command(epilog="Example: lsqctl db backup")
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
    from lsqctl.services.workspace import backup_database

    with open_store(ctx) as store:
        report = backup_database(store, get_settings(ctx), file, force=force)
    if json:
        print_json({"backup": report})
    else:
        print(report.path)
        say(
            f"{pluralize(report.runs, 'run')}, {report.size_bytes} bytes, "
            f"schema {report.schema}: sound"
        )


data_app = typer.Typer(
    cls=CommandGroup, help="Datasets.", no_args_is_help=True, rich_markup_mode=None
)


@data_app.callback()
def data_group() -> None:
    """Datasets."""


@data_app.command("ls", epilog="Example: lsqctl data ls")
def list_datasets(ctx: typer.Context, json: Json = False) -> None:
    """List the datasets that a recipe may name, and whether each is in the data folder."""
    from lsqctl.datasets import DATASETS
    from lsqctl.datasets.presence import is_dataset_present

    data_dir = get_settings(ctx).data_dir
    present = {name: is_dataset_present(name, data_dir) for name in DATASETS}
    if json:
        datasets = [{"name": n, "present": present[n], "info": i} for n, i in DATASETS.items()]
        print_json({"datasets": datasets})
        return
    rows = [
        (
            name,
            info.title,
            f"{info.classes:,}" if info.classes else "",
            f"{info.channels}x{info.image_size}x{info.image_size}",
            "yes" if present[name] else "no",
        )
        for name, info in DATASETS.items()
    ]
    print_table(("dataset", "title", "classes", "image", "here"), rows)


@data_app.command(epilog="Example: lsqctl data fetch cifar10")
def fetch(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="DATASET", help="Dataset names.")],
) -> None:
    """Download datasets into the data folder, checked by their digests."""
    from lsqctl.services.recipe_inputs import download_dataset as fetch_one

    for name in names:
        folder = fetch_one(name, get_settings(ctx), notify=say)
        say(f"{name}: {folder}" if folder else f"{name} is bundled; nothing to fetch")
