"""`recipe ls|show|check|diff|schema|new`: look at recipes, check them, begin one."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli import completing
from lsqctl.cli.recipe_diff import diff
from lsqctl.cli.render import note, print_json, print_table, say, stderr_is_terminal, warn, warn_of
from lsqctl.cli.smoke import print_smoke_tests
from lsqctl.cli.state import Json, settings
from lsqctl.errors import Fault, RecipeError, UsageError
from lsqctl.wording import counted

if TYPE_CHECKING:
    from lsqctl.recipe_file import LoadedRecipe

app = typer.Typer(
    help="Look at recipes, check them, begin one.", no_args_is_help=True, rich_markup_mode=None
)

app.command("diff", epilog="Example: lsqctl recipe diff cifar10/resnet20-w4a4 paper/w4a4")(diff)

Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key; repeatable.")
]


class FaultFormat(StrEnum):
    """How faults are printed."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


@app.command("ls", epilog="Example: lsqctl recipe ls")
def list_recipes(json: Json = False) -> None:
    """List the recipes that ship with lsqctl; each can be submitted by its name."""
    from lsqctl.recipe_file import headers

    found = headers()
    if json:
        print_json({"recipes": found})
        return
    print_table(
        ("recipe", "runs", "what"),
        [(one.name, "base" if one.abstract else str(one.cells), one.description) for one in found],
        right=("runs",),
    )
    note(f"{len(found)} recipes; next: lsqctl recipe show NAME, lsqctl submit NAME")


@app.command(epilog="Example: lsqctl recipe show digits/resnet8-w4a4")
def show(
    ctx: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            help="A file, or the name of a bundled recipe.", autocompletion=completing.recipes
        ),
    ],
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Print a recipe complete, each value with its origin, and what its network costs."""
    from lsqctl.cli.recipe_show import print_cells, print_cells_json
    from lsqctl.recipe_file import load

    loaded = load(recipe, sets=tuple(sets or ()))
    (print_cells_json if json else print_cells)(loaded, settings(ctx))


@app.command(epilog="Example: lsqctl recipe check my.yaml")
def check(
    ctx: typer.Context,
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE", help="Files or names.", autocompletion=completing.recipes),
    ],
    sets: Sets = None,
    style: Annotated[FaultFormat, typer.Option("--format", help="How faults are printed.")] = (
        FaultFormat.TEXT
    ),
    try_out: Annotated[
        bool,
        typer.Option(
            "--smoke",
            help="Besides, build and quantize each network, train one step and evaluate, on two "
            "images each: real ones where the data is at hand, with random weights.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Check recipes and queue nothing; exit 2 when one has a fault, 1 when its trial fails."""
    from lsqctl.api.layers import check_layers
    from lsqctl.api.references import network_doubts
    from lsqctl.recipe_file import load

    faults: list[Fault] = []
    found: list[LoadedRecipe] = []
    for reference in recipes:
        try:
            loaded = load(reference, sets=tuple(sets or ()))
        except RecipeError as error:
            faults += error.faults
            continue
        faults += check_layers([loaded])
        found.append(loaded)
        for text in network_doubts(cell.recipe for cell in loaded.cells):
            warn(text)
        for fault in loaded.warnings:
            warn_of(fault)
    chosen = FaultFormat.JSON if json else style
    if faults or not try_out:
        _print_faults(faults, chosen)
    if faults:
        raise typer.Exit(RecipeError.exit_code)
    if try_out:
        print_smoke_tests(found, settings(ctx), json=json)
    elif chosen is FaultFormat.TEXT:
        runs = sum(len(loaded.cells) for loaded in found)
        say(f"{counted(len(recipes), 'recipe')}, {counted(runs, 'run')}: no fault")


@app.command(epilog="Example: lsqctl recipe schema > lsqctl.schema.json")
def schema() -> None:
    """Print the JSON Schema of recipe files, for editors that complete and underline."""
    import json

    from lsqctl.recipe_file import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command(epilog="Example: lsqctl recipe new mine.yaml")
def new(
    path: Annotated[Path, typer.Argument(help="The file to begin.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Begin a recipe: a commented file that loads as it is."""
    from lsqctl.recipe_file import template

    if path.suffix not in {".yaml", ".yml"}:
        raise UsageError(f"{path}: a recipe's file ends in .yaml")
    text = template(path.stem)
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} exists; --force overwrites it") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    say(f"wrote {path}; next: lsqctl recipe check {path}, lsqctl run {path}")


def _print_faults(faults: list[Fault], style: FaultFormat) -> None:
    from lsqctl.cli.faults import faults_github, faults_json, format_faults

    match style:
        case FaultFormat.JSON:
            print(faults_json(faults))
        case FaultFormat.GITHUB:
            sys.stdout.write(faults_github(faults))
        case FaultFormat.TEXT if faults:
            print(format_faults(faults, colour=stderr_is_terminal()), file=sys.stderr)
