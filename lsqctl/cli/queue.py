"""`submit`: put recipes into the queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.options import (
    Exists,
    FailFast,
    Hold,
    MaxFailures,
    Priority,
    Recipes,
    Reserved,
    Seeds,
    Sets,
    SkipData,
    TimeLimit,
)
from lsqctl.cli.render import note, print_json, print_table, say, warn_of
from lsqctl.cli.state import Json, Quiet, settings, workspace
from lsqctl.errors import UsageError
from lsqctl.run import Enqueued, NewRun, Outcome
from lsqctl.wording import counted

if TYPE_CHECKING:
    from lsqctl.api.submit import Options, Plan


def register(app: typer.Typer) -> None:
    """Add the command of this module to the top level."""
    app.command(epilog="Example: lsqctl submit digits/resnet8-lsq --seed 0 --seed 1")(submit)


def submit(
    ctx: typer.Context,
    recipes: Recipes,
    sets: Sets = None,
    seeds: Seeds = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the plan.")] = False,
    if_exists: Exists = "skip",
    priority: Priority = 0,
    hold: Hold = False,
    fail_fast: FailFast = False,
    max_failures: MaxFailures = None,
    gpus: Reserved = 1,
    time_limit: TimeLimit = None,
    skip_data_check: SkipData = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check recipes, then queue a run for each (and for each parent that is missing)."""
    from lsqctl.api import submit as api

    if fail_fast and max_failures not in {None, 1}:
        raise UsageError(f"--fail-fast is --max-failures 1, not {max_failures}; give one of them")
    options = api.Options(
        *(tuple(sets or ()), tuple(seeds or ()), not skip_data_check, priority),
        held=hold,
        max_failures=1 if fail_fast else max_failures,
        gpus=gpus,
        time_limit_seconds=time_limit,
    )
    plan = planned(ctx, recipes, options)
    if dry_run:
        _print_plan(plan, json=json)
        return
    with workspace(ctx, create=True) as store:
        print_enqueued(api.submit(plan, store, if_exists=if_exists), plan, json=json, quiet=quiet)


def planned(ctx: typer.Context, recipes: Sequence[str], options: Options) -> Plan:
    """Check everything against the workspace, if there is one; make none for a faulty recipe."""
    from lsqctl.api import submit as api
    from lsqctl.api.workspace import workspace_exists

    here = settings(ctx)
    if not workspace_exists(here):
        return api.plan(recipes, settings=here, store=None, options=options)
    with workspace(ctx, silent=True) as store:
        return api.plan(recipes, settings=here, store=store, options=options)


def _print_plan(plan: Plan, *, json: bool) -> None:
    for fault in plan.warnings:
        warn_of(fault)
    if json:
        print_json({"runs": [_planned(new) for new in plan.runs]})
        return
    print_table(
        ("run", "seed", "epochs", "waits for"),
        [(new.name, str(new.seed), str(new.epochs), _waits(new, plan)) for new in plan.runs],
        right=("seed", "epochs"),
    )
    several = counted(len({one.run_sha256 for one in plan.runs}), "run")
    say(f"{several} would be queued; nothing was")


def _planned(new: NewRun) -> dict[str, object]:
    return {
        "name": new.name,
        "seed": new.seed,
        "epochs": new.epochs,
        "recipe_sha256": new.recipe_sha256,
        "parents": dict(new.parents),
        "gpus": new.gpus,
        "time_limit_seconds": new.time_limit_seconds,
        "recipe": new.recipe,
    }


def _waits(new: NewRun, plan: Plan) -> str:
    names = {one.run_sha256: one.name for one in plan.runs}
    return ", ".join(dict.fromkeys(names.get(sha, sha[:8]) for sha in new.parents.values()))


def print_enqueued(enqueued: Sequence[Enqueued], plan: Plan, *, json: bool, quiet: bool) -> None:
    """Print what became of each run of a submission."""
    for fault in plan.warnings:
        warn_of(fault)
    if json:
        print_json({"runs": [{"outcome": one.outcome, **_brief(one)} for one in enqueued]})
        return
    if quiet:
        for one in enqueued:
            print(one.run.id)
        return
    print_table(
        ("id", "run", "seed", "outcome"),
        [(one.run.id, one.run.name, str(one.run.seed), one.outcome) for one in enqueued],
        right=("seed",),
    )
    _print_counts(enqueued)


def _brief(one: Enqueued) -> dict[str, object]:
    run = one.run
    return {"id": run.id, "name": run.name, "seed": run.seed, "state": run.state}


def _print_counts(enqueued: Sequence[Enqueued]) -> None:
    counts = {kind: sum(one.outcome is kind for one in enqueued) for kind in Outcome}
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    new = len(enqueued) - counts[Outcome.EXISTS]
    note(f"{told}; " + ("next: lsqctl worker --until-empty" if new else "nothing to do"))
