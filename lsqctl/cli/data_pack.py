"""`data pack`: a folder of images as one file.

Apart because the other commands on data only look.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lsqctl.cli.console import print_json, say
from lsqctl.cli.options import Json, get_settings
from lsqctl.text import format_bytes, pluralize


def pack(
    ctx: typer.Context,
    folder: Annotated[
        str, typer.Argument(help="With train and val: a path, or a name in the data folder.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write (FOLDER.pack)."),
    ] = None,
    resize: Annotated[
        int, typer.Option(min=1, max=4096, help="Pixels that shorter sides are reduced to.")
    ] = 256,
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="Of JPEGs that are reduced; PNGs lose nothing.")
    ] = 95,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Cores that encode.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    json: Json = False,
) -> None:
    """Write a folder of images as one indexed file.

    `data.path` may name it.

    Larger images are reduced, smaller ones kept byte for byte. Nothing is left of a file that
    could not be completed.
    """
    from lsqctl.recipe_file.serialization import dump_scalar
    from lsqctl.services.pack import PackOptions, pack_folder

    options = PackOptions(resize=resize, quality=quality, threads=threads, force=force)
    packed = pack_folder(folder, output, options, get_settings(ctx), notify=say)
    if json:
        print_json({"packed": packed})
        return
    images, size = pluralize(packed.train + packed.val, "image"), format_bytes(packed.size_bytes)
    say(f"{packed.file}: {images}, classes: {packed.classes:,}, {size}")
    path = dump_scalar(_path_in_recipe(packed.file, get_settings(ctx).data_dir))
    say(f"a recipe says: data: {{name: imagefolder, path: {path}}}")


def _path_in_recipe(file: Path, data_dir: Path) -> str:
    """Return how ``data.path`` names a file: from the data folder, or absolutely."""
    found, root = file.resolve(), data_dir.resolve()
    return str(found.relative_to(root) if found.is_relative_to(root) else found)
