"""`recipe bits`: write a recipe whose layers have the bits that a budget allows."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli import completion
from lsqctl.cli.console import print_json, print_table, say
from lsqctl.cli.options import Json, amount_of_bops, amount_of_bytes, get_settings
from lsqctl.errors import UsageError
from lsqctl.text import format_bops, format_bytes

if TYPE_CHECKING:
    from lsqctl.services.bits import BitPlan, CostKind


def bits(
    ctx: typer.Context,
    recipe_ref: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A file, a bundled recipe, a cell of a sweep, or a run: its id or @last.",
            autocompletion=completion.recipes,
        ),
    ],
    size: Annotated[
        float | None,
        typer.Option(parser=amount_of_bytes, metavar="SIZE", help="At most 120kB, 1.5MB."),
    ] = None,
    bops: Annotated[
        float | None,
        typer.Option(parser=amount_of_bops, metavar="BOPS", help="At most 0.5G, 800M an image."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Recipe to write (NAME-bits.yaml)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    json: Json = False,
) -> None:
    """Find bits for each layer within a budget, and write a recipe.

    From the step sizes that runs of the same network and dataset have learned at several bits:
    the smaller they stay, the less a layer loses (LIMPQ, arXiv 2203.08368).
    """
    from lsqctl.atomic_write import write_atomic
    from lsqctl.recipe_file import check_new_recipe, dump
    from lsqctl.services.bits import default_file, describe, one_recipe, plan_bits

    if (size is None) == (bops is None):
        raise UsageError("name one budget: --size 120kB, or --bops 0.5G")
    settings = get_settings(ctx)
    recipe = one_recipe(recipe_ref, settings)
    path = output or default_file(recipe)
    check_new_recipe(path, force=force)  # before the search, which takes long
    kind: CostKind = "bops" if size is None else "size"
    plan = plan_bits(recipe, kind, size or bops or 0.0, settings)
    named = plan.recipe.model_copy(update={"name": path.stem})
    write_atomic(path, f"# {describe(plan)}\n{dump(named)}".encode(), force=force)
    if json:
        values = {field.name: getattr(plan, field.name) for field in fields(plan)}
        print_json({"file": str(path), **values, "recipe": named.model_dump(mode="json")})
        return
    _print_layers(plan)
    say(f"{describe(plan)}; wrote {path}; next: lsqctl submit {quote(str(path))}")


def _print_layers(plan: BitPlan) -> None:
    form = format_bytes if plan.kind == "size" else format_bops
    print_table(
        ("layer", "weight bits", "act bits", plan.kind),
        [
            (option.layer, str(option.weight_bits), str(option.act_bits), form(option.cost))
            for option in plan.layers
        ],
        right_aligned=("weight bits", "act bits", plan.kind),
    )
