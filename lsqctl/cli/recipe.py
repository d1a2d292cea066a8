"""`recipe ls|show|check|diff|schema|new`: look at recipes, check them, begin one."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli import completing
from lsqctl.cli.recipe_diff import diff
from lsqctl.cli.render import note, print_json, print_table, say, stderr_is_terminal, warn, warn_diagnostic
from lsqctl.cli.smoke import print_smoke_tests
from lsqctl.cli.state import Json, get_settings
from lsqctl.errors import Diagnostic, RecipeError, UsageError
from lsqctl.wording import pluralize

if TYPE_CHECKING:
    from lsqctl.recipe_file import LoadedRecipe

app = typer.Typer(
    help="Look at recipes, check them, begin one.", no_args_is_help=True, rich_markup_mode=None
)

app.command("diff", epilog="Example: lsqctl recipe diff cifar10/resnet20-w4a4 paper/w4a4")(diff)

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key; repeatable.")
]


class DiagnosticFormat(StrEnum):
    """How diagnostics are printed."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


@app.command("ls", epilog="Example: lsqctl recipe ls")
def list_recipes(json: Json = False) -> None:
    """List the recipes that ship with lsqctl; each can be submitted by its name."""
    from lsqctl.recipe_file import headers

    recipe_headers = headers()
    if json:
        print_json({"recipes": recipe_headers})
        return
    print_table(
        ("recipe", "runs", "what"),
        [(header.name, "base" if header.abstract else str(header.cells), header.description) for header in recipe_headers],
        right_aligned=("runs",),
    )
    note(f"{len(recipe_headers)} recipes; next: lsqctl recipe show NAME, lsqctl submit NAME")


@app.command(epilog="Example: lsqctl recipe show digits/resnet8-w4a4")
def show(
    ctx: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            help="A file, or the name of a bundled recipe.", autocompletion=completing.recipes
        ),
    ],
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Print a recipe complete, each value with its origin, and what its network costs."""
    from lsqctl.cli.recipe_show import print_cells, print_cells_json
    from lsqctl.recipe_file import load

    loaded = load(recipe, sets=tuple(overrides or ()))
    (print_cells_json if json else print_cells)(loaded, get_settings(ctx))


@app.command(epilog="Example: lsqctl recipe check my.yaml")
def check(
    ctx: typer.Context,
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE", help="Files or names.", autocompletion=completing.recipes),
    ],
    overrides: Overrides = None,
    output_format: Annotated[DiagnosticFormat, typer.Option("--format", help="How faults are printed.")] = (
        DiagnosticFormat.TEXT
    ),
    smoke: Annotated[
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
    from lsqctl.api.references import network_warnings
    from lsqctl.recipe_file import load

    diagnostics: list[Diagnostic] = []
    loaded_recipes: list[LoadedRecipe] = []
    for recipe_ref in recipes:
        try:
            loaded = load(recipe_ref, sets=tuple(overrides or ()))
        except RecipeError as error:
            diagnostics += error.diagnostics
            continue
        diagnostics += check_layers([loaded])
        loaded_recipes.append(loaded)
        for text in network_warnings(cell.recipe for cell in loaded.cells):
            warn(text)
        for warning in loaded.warnings:
            warn_diagnostic(warning)
    chosen_format = DiagnosticFormat.JSON if json else output_format
    if diagnostics or not smoke:
        _print_diagnostics(diagnostics, chosen_format)
    if diagnostics:
        raise typer.Exit(RecipeError.exit_code)
    if smoke:
        print_smoke_tests(loaded_recipes, get_settings(ctx), json=json)
    elif chosen_format is DiagnosticFormat.TEXT:
        runs = sum(len(loaded.cells) for loaded in loaded_recipes)
        say(f"{pluralize(len(recipes), 'recipe')}, {pluralize(runs, 'run')}: no fault")


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


def _print_diagnostics(diagnostics: list[Diagnostic], output_format: DiagnosticFormat) -> None:
    from lsqctl.cli.faults import format_github, format_json, format_diagnostics

    match output_format:
        case DiagnosticFormat.JSON:
            print(format_json(diagnostics))
        case DiagnosticFormat.GITHUB:
            sys.stdout.write(format_github(diagnostics))
        case DiagnosticFormat.TEXT if diagnostics:
            print(format_diagnostics(diagnostics, colour=stderr_is_terminal()), file=sys.stderr)
