"""`sweep status`: which cells of a sweep are done, failed, missing or on their way."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from lsqctl.cli.render import note, print_json, print_table, say
from lsqctl.cli.state import Json, workspace

app = typer.Typer(help="Look at sweeps.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Look at sweeps."""


@app.command(epilog="Example: lsqctl sweep status digits/resnet8-lsq")
def status(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A sweep; default: the newest.")] = None,
    json: Json = False,
) -> None:
    """Show each cell of a sweep and the run that stands for it."""
    from lsqctl.api.sweeps import sweep_named

    with workspace(ctx) as store:
        found = sweep_named(store, name)
        cells = store.sweep_cells(found) if found else []
    if json:
        print_json({"sweep": found, "cells": cells})
        return
    if not cells:
        say("no sweeps yet; a recipe with a `sweep:` section makes one when it is submitted")
        return
    print_table(
        ("cell", "seed", "state", "Top-1 %", "run"),
        [
            (
                one.cell or "–",
                str(one.seed),
                one.run.state.value if one.run else "missing",
                f"{one.run.top1:.2f}" if one.run and one.run.top1 is not None else "",
                one.run.id if one.run else "",
            )
            for one in cells
        ],
        right=("seed", "Top-1 %"),
    )
    states = Counter(one.run.state.value if one.run else "missing" for one in cells)
    note(f"{found}: " + ", ".join(f"{count} {state}" for state, count in states.items()))
