"""`doctor`, `bugreport`, `db` and `data`: examine and keep the workspace and its datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli import completion
from lsqctl.cli.console import print_advice, print_json, print_table, say, warn
from lsqctl.cli.groups import CommandGroup
from lsqctl.cli.options import Json, get_settings, open_store, setting_sources
from lsqctl.datasets.image_files import Decoder
from lsqctl.errors import StoreError
from lsqctl.text import format_bytes, pluralize, sanitize

if TYPE_CHECKING:
    from lsqctl.services.data_check import CheckedData, Findings
    from lsqctl.services.data_folder import ImageFolder, RecipeData, WeightsFile
    from lsqctl.settings import Settings
    from lsqctl.training.logit_stores import StoredLogits

_LEVEL_STYLES = {"ok": "green", "warning": "yellow", "error": "red"}


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command(epilog="Example: lsqctl doctor")(doctor)


def doctor(ctx: typer.Context, json: Json = False) -> None:
    """Check Python, libraries, devices, disk, data and database.

    Exit 1 on an error.
    """
    from lsqctl.services.doctor import diagnose

    findings = diagnose(get_settings(ctx))
    if json:
        print_json({"findings": findings})
    else:
        for finding in findings:
            style = _LEVEL_STYLES.get(finding.level, "")
            print_advice(finding.level, finding.message, finding.fix, style=style)
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
    """Write versions, settings and findings to a zip file.

    And the queue's state; without secrets.

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
    """Check integrity, foreign keys and schema.

    Exit 4 when something is wrong.
    """
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
    """Copy the database while others use it, and check the copy.

    db/README.md: restoring.
    """
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


@data_app.command("ls", epilog="Example: lsqctl data ls digits/resnet8-w4a4")
def list_datasets(
    ctx: typer.Context,
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE",
            help="What these recipes would use, instead.",
            autocompletion=completion.recipes,
        ),
    ] = None,
    of_all_recipes: Annotated[
        bool, typer.Option("--recipes", help="What each recipe, here and bundled, would use.")
    ] = False,
    json: Json = False,
) -> None:
    """List the datasets, and what lies in the data folder.

    After them come the teachers' logits that runs with distill.cache keep there.
    """
    from lsqctl.services import data_folder

    settings = get_settings(ctx)
    if recipes or of_all_recipes:
        names = (*(recipes or ()), *(data_folder.all_recipes() if of_all_recipes else ()))
        _print_recipes_data([*data_folder.data_of_recipes(names, settings)], json=json)
    else:
        _list_data_folder(settings, json=json)


def _list_data_folder(settings: Settings, *, json: bool) -> None:
    from lsqctl.datasets import DATASETS
    from lsqctl.datasets.presence import is_dataset_present
    from lsqctl.services import data_folder
    from lsqctl.training.logit_stores import stored_logits

    present = {name: is_dataset_present(name, settings.data_dir) for name in DATASETS}
    folders = data_folder.find_image_folders(settings)
    weights = data_folder.find_weights_files(settings)
    stores = stored_logits(settings.data_dir)
    if json:
        datasets = [{"name": n, "present": present[n], "info": i} for n, i in DATASETS.items()]
        found = {"datasets": datasets, "image_folders": folders, "weights_files": weights}
        print_json(found | {"teacher_logits": stores})
        return
    _print_datasets(present)
    if stores:
        _print_stores(stores)
    _print_data_folder(folders, weights, settings.data_dir)


def _print_datasets(present: Mapping[str, bool]) -> None:
    from lsqctl.datasets import DATASETS

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


def _print_stores(stores: Sequence[StoredLogits]) -> None:
    print_table(
        ("teacher's logits", "network", "dataset", "views", "size"),
        [
            (
                store.path.name,
                sanitize(str(store.about.get("network"))),
                sanitize(str(store.about.get("dataset"))),
                f"{store.views}" + (f" (+{n} in part)" if (n := store.views_in_part) else ""),
                format_bytes(store.size_bytes),
            )
            for store in stores
        ],
        right_aligned=("views", "size"),
    )


def _print_data_folder(
    folders: Sequence[ImageFolder], weights: Sequence[WeightsFile], data_dir: Path
) -> None:
    """Print what lies there beside the datasets, and how a recipe names it."""
    if folders:
        print()
        print_table(
            ("image folder", "classes", "train", "val", "a recipe says"),
            [
                (
                    folder.path,
                    f"{folder.classes:,}",
                    f"{folder.train:,}",
                    f"{folder.val:,}",
                    _recipe_words(folder),
                )
                for folder in folders
            ],
            right_aligned=("classes", "train", "val"),
        )
    for problem in filter(None, (folder.problem for folder in folders)):
        warn(problem)
    if weights:
        print()
        rows = [(file.path, format_bytes(file.size_bytes)) for file in weights]
        print_table(("weights file", "size"), rows, right_aligned=("size",))
    say(f"data folder: {data_dir}")


def _recipe_words(folder: ImageFolder) -> str:
    if folder.damaged:
        return "damaged: pack it again" if folder.path.endswith(".pack") else "does not read"
    return f"data: {{name: imagefolder, path: {folder.path}}}"


def _print_recipes_data(found: Sequence[RecipeData], *, json: bool) -> None:
    if json:
        print_json({"recipes": found})
        return
    print_table(
        ("recipe", "dataset", "here", "train", "eval", "where"),
        [
            (
                data.recipe,
                data.dataset,
                "yes" if data.present else "no",
                *("all" if limit is None else f"{limit:,}" for limit in data.limits),
                data.location,
            )
            for data in found
        ],
        right_aligned=("train", "eval"),
    )


@data_app.command("check", epilog="Example: lsqctl data check flowers --threads 4")
def check_images(
    ctx: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="PATH|NAME", help="A folder, packed file or list of images, or a dataset."
        ),
    ],
    threads: Annotated[int, typer.Option(min=1, max=256, help="Cores that decode.")] = 1,
    decoder: Annotated[Decoder, typer.Option(help="What decodes, as data.decoder says.")] = "pil",
    json: Json = False,
) -> None:
    """Read every image of a dataset, and list all that cannot be read.

    Exit 1 if there is one. The bytes of packed images are compared with their hashes; a dataset of
    lsqctl's own is read as training reads it, by its published digests. Images that are in train
    and val, and those of more than 8 bits a channel, are counted.
    """
    from lsqctl.services.data_check import check_data

    checked = check_data(target, get_settings(ctx), threads=threads, decoder=decoder, notify=say)
    if json:
        print_json({"checked": checked})
    else:
        _print_checked(checked)
    if checked.unreadable:
        raise typer.Exit(1)


def _print_checked(checked: CheckedData) -> None:
    unreadable, images = checked.unreadable, pluralize(checked.train + checked.val, "image")
    if unreadable:
        rows = [(sanitize(image.path), sanitize(image.reason)) for image in unreadable]
        print_table(("image", "cannot be read"), rows)
    for note in checked.notes:
        say(note)
    _print_findings("more than 8 bits a channel, of which training sees 8", checked.deep)
    _print_findings("in train and in val: Top-1 counts what was trained on", checked.in_both)
    if unreadable:
        say(
            f"{checked.name}: {len(unreadable):,} of {images} cannot be read: remove or replace "
            "them, and pack packed ones again"
        )
    else:
        say(f"{checked.name}: {images}, all readable")


def _print_findings(what: str, found: Findings) -> None:
    if found.count:
        more = ", …" if found.count > len(found.examples) else ""
        warn(f"{pluralize(found.count, 'image')} {what} ({'; '.join(found.examples)}{more})")


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
