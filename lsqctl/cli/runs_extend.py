"""`runs extend`: go on from a finished run for some more epochs, as a new run."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from lsqctl.cli.options import (
    CheckOnly,
    Hold,
    IfExistsOption,
    Json,
    Priority,
    Quiet,
    RunArgument,
    Tags,
    get_settings,
    open_store,
    positive_int,
)
from lsqctl.cli.submit import print_enqueued, print_plan


def register(app: typer.Typer) -> None:
    """Add the command of this module to `runs`."""
    app.command(epilog="Example: lsqctl runs extend @last --epochs 10")(extend)


def extend(
    ctx: typer.Context,
    run_ref: RunArgument,
    epochs: Annotated[
        int, typer.Option(parser=positive_int, metavar="N", help="How many epochs more.")
    ],
    schedule: Annotated[
        Literal["restart", "constant"],
        typer.Option(help="Begin the run's learning rate schedule anew, or keep it constant."),
    ] = "restart",
    lr: Annotated[
        float | None, typer.Option(metavar="LR", help="Learning rate; default: the run's train.lr.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the new run; default: NAME-eEPOCHS.")
    ] = None,
    tags: Tags = None,
    dry_run: CheckOnly = False,
    if_exists: IfExistsOption = "skip",
    priority: Priority = 0,
    hold: Hold = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Queue a new run that goes on where a finished one ended.

    With its weights, optimizer and averages.
    """
    from lsqctl.services import submit as api
    from lsqctl.services.extension import extended_recipe
    from lsqctl.services.submit_planner import SubmitOptions

    options = SubmitOptions(priority=priority, held=hold, tags=tuple(tags or ()))
    settings = get_settings(ctx)
    with open_store(ctx) as store:
        recipe = extended_recipe(
            store, settings, run_ref, epochs, schedule=schedule, lr=lr, name=name
        )
        plan = api.plan_loaded([recipe], settings=settings, store=store, options=options)
        if dry_run:
            existing = store.runs.preview(plan.runs, if_exists=if_exists)
            print_plan(plan, existing, json=json)
            return
        enqueued = api.submit(plan, store, if_exists=if_exists)
    print_enqueued(enqueued, plan, json=json, quiet=quiet)
