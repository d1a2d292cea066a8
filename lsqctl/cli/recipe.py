"""`recipe ls|show|check|diff|schema|new`: list, compare and check recipes, begin one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli import completion
from lsqctl.cli.console import (
    note,
    print_json,
    print_table,
    say,
    stderr_is_terminal,
    warn,
    warn_diagnostic,
)
from lsqctl.cli.groups import CommandGroup
from lsqctl.cli.options import Json, get_settings
from lsqctl.cli.recipe_bits import bits
from lsqctl.errors import Diagnostic, LsqctlError, RecipeError
from lsqctl.settings import Settings
from lsqctl.text import plural_s, pluralize, sanitize

if TYPE_CHECKING:
    from lsqctl.recipe_file import LoadedRecipe
    from lsqctl.services.diff import Deviation, RecipeDiff
    from lsqctl.services.recipe_inputs import SmokeReport

LeftRecipe = Annotated[
    str,
    typer.Argument(
        help="A recipe, a cell of a sweep by its name, or a run.",
        autocompletion=completion.recipes_and_runs,
    ),
]
RightRecipe = Annotated[
    str | None,
    typer.Argument(
        help="The same, or a base; left out: what each cell extends.",
        autocompletion=completion.recipes_and_runs,
    ),
]
ExitCode = Annotated[
    bool, typer.Option("--exit-code", help="End with 1 where something differs, as `git diff`.")
]


def diff(
    ctx: typer.Context,
    left: LeftRecipe,
    right: RightRecipe = None,
    exit_code: ExitCode = False,
    json: Json = False,
) -> None:
    """List every deviation of one recipe from another.

    Of a sweep, for each cell.
    """
    from lsqctl.services.diff import diff_recipes

    diffs = diff_recipes(left, right, get_settings(ctx))
    if json:
        print_json({"comparisons": diffs})
    else:
        _print_diffs(diffs)
    if exit_code and any(recipe_diff.deviations for recipe_diff in diffs):
        raise typer.Exit(1)


def _print_diffs(diffs: Sequence[RecipeDiff]) -> None:
    """Print each deviation once, with the cells that have it where not all do."""
    prefix_length = _common_prefix_length([recipe_diff.left for recipe_diff in diffs])
    sources_by_deviation: dict[tuple[str, str, str], _DeviationSources] = {}
    for recipe_diff in diffs:
        for deviation in recipe_diff.deviations:
            key = (deviation.key, _value_text(deviation.left), _value_text(deviation.right))
            sources_by_deviation.setdefault(key, _DeviationSources()).add(
                deviation, recipe_diff.left[prefix_length:]
            )
    if sources_by_deviation:
        print_table(
            ("key", "left", "right", "left source", "right source", "cells"),
            [(*key, *sources.texts(len(diffs))) for key, sources in sources_by_deviation.items()],
            hide_first=("right source", "left source"),
        )
    right_names = ", ".join(dict.fromkeys(recipe_diff.right for recipe_diff in diffs))
    left_names = (
        diffs[0].left
        if len(diffs) == 1
        else f"{len(diffs)} cells of {diffs[0].left[:prefix_length]}…"
    )
    n_deviations = len(sources_by_deviation)
    say(
        f"{n_deviations or 'no'} deviation{plural_s(n_deviations)} of {left_names} "
        f"from {right_names}"
    )


class _DeviationSources:
    """Where the two values of one deviation are written, and in which cells it is."""

    def __init__(self) -> None:
        self.left: dict[str, None] = {}
        self.right: dict[str, None] = {}
        self.cells: list[str] = []

    def add(self, deviation: Deviation, cell: str) -> None:
        self.left[deviation.left_source] = None
        self.right[deviation.right_source] = None
        self.cells.append(cell)

    def texts(self, n_cells: int) -> tuple[str, str, str]:
        cell_names = "" if len(self.cells) == n_cells else " ".join(self.cells)
        return ", ".join(self.left), ", ".join(self.right), cell_names


def _common_prefix_length(names: Sequence[str]) -> int:
    """Return how many first letters are the same in the names of a sweep's cells, up to a dash."""
    length = 0
    while len(names) > 1 and all(
        length < len(name) and name[length] == names[0][length] for name in names
    ):
        length += 1
    return names[0].rfind("-", 0, length) + 1 if names else 0


def _value_text(value: object) -> str:
    from lsqctl.recipe_file.serialization import dump_scalar

    return "–" if value is None else dump_scalar(value)


app = typer.Typer(
    cls=CommandGroup,
    help="List and show recipes, check them, begin one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

app.command("diff", epilog="Example: lsqctl recipe diff cifar10/resnet20-w4a4 paper/w4a4")(diff)

app.command(
    "bits",
    epilog="Example: lsqctl recipe bits cifar10/resnet20-lsq-w4a4 --size 120kB",
)(bits)

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
    """List the recipes that ship with lsqctl.

    Each can be submitted by its name.
    """
    from lsqctl.recipe_file import recipe_summaries

    recipe_headers = recipe_summaries()
    if json:
        print_json({"recipes": recipe_headers})
        return
    print_table(
        ("recipe", "runs", "description"),
        [
            (header.name, "base" if header.abstract else str(header.cells), header.description)
            for header in recipe_headers
        ],
        right_aligned=("runs",),
    )
    note(f"{len(recipe_headers)} recipes; next: lsqctl recipe show NAME, lsqctl submit NAME")


@app.command(epilog="Example: lsqctl recipe show digits/resnet8-w4a4")
def show(
    ctx: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            help="A file, the name of a bundled recipe, or a run: its id or @last.",
            autocompletion=completion.recipes,
        ),
    ],
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Print a recipe complete, each value with its source.

    And what its network costs.
    """
    from lsqctl.cli.recipe_show import print_cells, print_cells_json
    from lsqctl.services.loading import load_in_workspace

    settings = get_settings(ctx)
    loaded = load_in_workspace(recipe, settings, overrides or ())
    (print_cells_json if json else print_cells)(loaded, settings)


@app.command(epilog="Example: lsqctl recipe check my.yaml")
def check(
    ctx: typer.Context,
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE", help="Files or names.", autocompletion=completion.recipes),
    ],
    overrides: Overrides = None,
    output_format: Annotated[
        DiagnosticFormat, typer.Option("--format", help="How diagnostics are printed.")
    ] = (DiagnosticFormat.TEXT),
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
    """Check recipes and queue nothing.

    Exit 2 on an error, 1 when a smoke test fails.
    """
    loaded_recipes, diagnostics = _load_and_check(recipes, tuple(overrides or ()))
    for loaded in loaded_recipes:
        _warn_of(loaded)
    chosen_format = DiagnosticFormat.JSON if json else output_format
    if diagnostics or not smoke:
        _print_diagnostics(diagnostics, chosen_format)
    if diagnostics:
        raise typer.Exit(RecipeError.exit_code)
    if problem := _readiness_problem(ctx, recipes, tuple(overrides or ())):
        warn(f"cannot be submitted here as it is: {problem}")
    if smoke:
        print_smoke_tests(loaded_recipes, get_settings(ctx), json=json)
    elif chosen_format is DiagnosticFormat.TEXT:
        runs = sum(len(loaded.cells) for loaded in loaded_recipes)
        say(f"{pluralize(len(recipes), 'recipe')}, {pluralize(runs, 'run')}: no errors")


def _load_and_check(
    recipes: Sequence[str], overrides: tuple[str, ...]
) -> tuple[list[LoadedRecipe], list[Diagnostic]]:
    """Return the recipes that can be loaded, and all that is wrong with any."""
    from lsqctl.recipe_file import Changes, load
    from lsqctl.services.layer_checks import check_layers

    loaded_recipes: list[LoadedRecipe] = []
    diagnostics: list[Diagnostic] = []
    for recipe_ref in recipes:
        try:
            loaded = load(recipe_ref, Changes(sets=overrides))
        except RecipeError as error:
            diagnostics += error.diagnostics
            continue
        diagnostics += check_layers([loaded])
        loaded_recipes.append(loaded)
    return loaded_recipes, diagnostics


def _warn_of(loaded: LoadedRecipe) -> None:
    from lsqctl.services.recipe_inputs import network_warnings

    for text in network_warnings(loaded.cells):
        warn(text)
    for warning in loaded.warnings:
        warn_diagnostic(warning)


def _readiness_problem(
    ctx: typer.Context, recipes: Sequence[str], overrides: tuple[str, ...]
) -> str:
    from lsqctl.services.submit import readiness_problem
    from lsqctl.services.submit_planner import SubmitOptions

    try:
        settings = get_settings(ctx)
    except LsqctlError as error:
        return str(error)
    return readiness_problem(recipes, settings, SubmitOptions(overrides=overrides))


@app.command(epilog="Example: lsqctl recipe schema > lsqctl.schema.json")
def schema() -> None:
    """Print the JSON Schema of recipe files, for editors.

    They complete and underline by it.
    """
    import json

    from lsqctl.recipe_file import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command(epilog="Example: lsqctl recipe new mine.yaml")
def new(
    path: Annotated[Path, typer.Argument(help="The file to begin.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Begin a recipe: a commented file that loads as it is."""
    from lsqctl.atomic_write import write_atomic
    from lsqctl.recipe_file import check_new_recipe, template

    check_new_recipe(path, force=force)
    write_atomic(path, template(path.stem).encode(), force=force)
    quoted = quote(str(path))
    say(f"wrote {path}; next: lsqctl recipe check {quoted}, lsqctl run {quoted}")


def _print_diagnostics(diagnostics: list[Diagnostic], output_format: DiagnosticFormat) -> None:
    from lsqctl.cli.diagnostics import format_diagnostics, format_github, format_json

    match output_format:
        case DiagnosticFormat.JSON:
            print(format_json(diagnostics))
        case DiagnosticFormat.GITHUB:
            sys.stdout.write(format_github(diagnostics))
        case DiagnosticFormat.TEXT if diagnostics:
            print(format_diagnostics(diagnostics, colour=stderr_is_terminal()), file=sys.stderr)


def print_smoke_tests(recipes: Sequence[LoadedRecipe], settings: Settings, *, json: bool) -> None:
    """Try each recipe and print a line for it; ends with 1 where one failed."""
    from lsqctl.services.recipe_inputs import run_smoke_tests

    reports = []
    for report in run_smoke_tests(recipes, settings):
        reports.append(report)
        if not json:
            print(sanitize(_smoke_line(report)), flush=True)
    n_failed = sum(bool(report.error) for report in reports)
    if json:
        print_json({"smoke": reports})
    else:
        seconds = sum(report.seconds for report in reports)
        say(f"{len(reports)} recipes tried in {seconds:.0f} s, {n_failed or 'none'} failed")
    if n_failed:
        raise typer.Exit(1)


def _smoke_line(report: SmokeReport) -> str:
    if report.error:
        return f"failed  {report.name}: {report.error}"
    measured = f"{report.seconds:.1f} s, loss {report.loss:.2f}, {report.images} images"
    return f"ok      {report.name}: {measured}"
