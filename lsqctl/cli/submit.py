"""`submit`: put recipes into the queue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from lsqctl.cli.console import note, print_json, print_table, say, warn_diagnostic
from lsqctl.cli.options import (
    CheckOnly,
    FailFast,
    Grids,
    Hold,
    IfExistsOption,
    Json,
    MaxFailures,
    Overrides,
    Priority,
    Quiet,
    RecipeName,
    Recipes,
    ReservedGpus,
    Seeds,
    SkipDataCheck,
    Tags,
    TimeLimit,
    get_settings,
    open_store,
    open_store_if_any,
)
from lsqctl.errors import UsageError
from lsqctl.run import EnqueuedRun, EnqueueOutcome, NewRun, Run
from lsqctl.text import join_counts, pluralize

if TYPE_CHECKING:
    from lsqctl.services.submit import SubmitPlan


def register(app: typer.Typer) -> None:
    """Add the command of this module to the top level."""
    app.command(epilog="Example: lsqctl submit digits/resnet8-lsq --seed 0 --seed 1")(submit)


def submit(
    ctx: typer.Context,
    recipes: Recipes,
    overrides: Overrides = None,
    grids: Grids = None,
    seeds: Seeds = None,
    name: RecipeName = None,
    tags: Tags = None,
    dry_run: CheckOnly = False,
    if_exists: IfExistsOption = "skip",
    priority: Priority = 0,
    hold: Hold = False,
    fail_fast: FailFast = False,
    max_failures: MaxFailures = None,
    gpus: ReservedGpus = 1,
    time_limit: TimeLimit = None,
    skip_data_check: SkipDataCheck = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check recipes, then queue a run for each.

    A parent that is missing is queued along.
    """
    from lsqctl.services import submit as api
    from lsqctl.services.submit_planner import SubmitOptions

    if fail_fast and max_failures not in {None, 1}:
        raise UsageError(f"--fail-fast is --max-failures 1, not {max_failures}; give one of them")
    options = SubmitOptions(
        overrides=tuple(overrides or ()),
        seeds=tuple(seeds or ()),
        check_data=not skip_data_check,
        priority=priority,
        held=hold,
        max_failures=1 if fail_fast else max_failures,
        gpus=gpus,
        time_limit_seconds=time_limit,
        grids=tuple(grids or ()),
        tags=tuple(tags or ()),
        name=name,
    )
    settings = get_settings(ctx)
    if dry_run:
        with open_store_if_any(ctx, without="checked only") as store:
            plan = api.plan_submit(recipes, settings=settings, store=store, options=options)
            existing = store.runs.preview(plan.runs, if_exists=if_exists) if store else {}
        print_plan(plan, existing, json=json)
        return
    plan = api.plan_in_workspace(recipes, settings, options)
    with open_store(ctx, create=True) as store:
        print_enqueued(api.submit(plan, store, if_exists=if_exists), plan, json=json, quiet=quiet)


def print_plan(plan: SubmitPlan, existing: Mapping[str, tuple[Run, bool]], *, json: bool) -> None:
    """Print what a submission would queue, instead of queueing it.

    ``existing`` are runs that are there, by ``run_sha256``, and whether they would be queued again.
    """
    for diagnostic in plan.warnings:
        warn_diagnostic(diagnostic)
    for text in plan.notes:
        say(text)
    if json:
        runs = [
            _new_run_json(new_run)
            | {"existing": run and {"id": run.id, "state": run.state, "again": again}}
            for new_run in plan.runs
            for run, again in [existing.get(new_run.run_sha256, (None, False))]
        ]
        print_json({"runs": runs, "notes": plan.notes})
        return
    print_table(
        ("run", "seed", "epochs", "waits for", "there already"),
        [
            (
                *(new_run.name, str(new_run.seed), str(new_run.epochs)),
                _parent_names(new_run, plan),
                _existing_text(existing.get(new_run.run_sha256)),
            )
            for new_run in plan.runs
        ],
        right_aligned=("seed", "epochs"),
    )
    hashes = {new_run.run_sha256 for new_run in plan.runs}
    n_there = sum(not again for sha, (_, again) in existing.items() if sha in hashes)
    there = f", {n_there:,} {'is' if n_there == 1 else 'are'} there already" if n_there else ""
    say(f"{pluralize(len(hashes) - n_there, 'run')} would be queued{there}; nothing was")


def _existing_text(existing: tuple[Run, bool] | None) -> str:
    """Return ``7kq2m8xd (name, failed), again``: which run it is, and whether it is tried again."""
    if existing is None:
        return ""
    run, again = existing
    return f"{run.id} ({run.name}, {run.state})" + (", again" if again else "")


def _new_run_json(new_run: NewRun) -> dict[str, object]:
    return {
        "name": new_run.name,
        "seed": new_run.seed,
        "epochs": new_run.epochs,
        "recipe_sha256": new_run.recipe_sha256,
        "parents": dict(new_run.parents),
        "tags": list(new_run.tags),
        "gpus": new_run.gpus,
        "time_limit_seconds": new_run.time_limit_seconds,
        "recipe": new_run.recipe,
    }


def _parent_names(new_run: NewRun, plan: SubmitPlan) -> str:
    planned = {one.run_sha256: one.name for one in plan.runs}
    names = [planned.get(sha) or _named_run(new_run, role) for role, sha in new_run.parents.items()]
    return ", ".join(dict.fromkeys(names))


def _named_run(new_run: NewRun, role: str) -> str:
    """Return the run that the recipe itself names under a key: one that is there already."""
    section, key = role.split(".")
    named = new_run.recipe[section][key]
    return str(named if isinstance(named, str) else named["run"])


def print_enqueued(
    enqueued: Sequence[EnqueuedRun],
    plan: SubmitPlan,
    *,
    json: bool,
    quiet: bool,
    worked_here: bool = False,
) -> None:
    """Print what became of each run of a submission, and, unless it is done here, what is next."""
    for diagnostic in plan.warnings:
        warn_diagnostic(diagnostic)
    for text in (*plan.notes, *_other_names(enqueued, plan)):
        say(text)
    if json:
        print_json(
            {"runs": [{"outcome": item.outcome, **_enqueued_json(item)} for item in enqueued]}
        )
        return
    if quiet:
        for item in enqueued:
            print(item.run.id)
        return
    print_table(
        ("id", "run", "seed", "outcome"),
        [(item.run.id, item.run.name, str(item.run.seed), item.outcome) for item in enqueued],
        right_aligned=("seed",),
        names=("run",),
    )
    _print_counts(enqueued, worked_here=worked_here)


def _other_names(enqueued: Sequence[EnqueuedRun], plan: SubmitPlan) -> Iterator[str]:
    """Yield that runs are there under another name than they were submitted by, in one line."""
    named_otherwise = [
        (item.run, new_run.name)
        for item, new_run in zip(enqueued, plan.runs, strict=True)
        if new_run.explicit and item.run.name != new_run.name
    ]
    if named_otherwise:
        run, name = named_otherwise[0]
        others = f", and {pluralize(n, 'other')}" if (n := len(named_otherwise) - 1) else ""
        yield (
            f"`{name}` is run {run.id}, there already as `{run.name}`{others}: a run keeps its "
            "name; --if-exists rerun trains it anew under this one"
        )


def _enqueued_json(item: EnqueuedRun) -> dict[str, object]:
    run = item.run
    return {"id": run.id, "name": run.name, "seed": run.seed, "state": run.state}


def _print_counts(enqueued: Sequence[EnqueuedRun], *, worked_here: bool) -> None:
    counts = {
        outcome: sum(item.outcome is outcome for item in enqueued) for outcome in EnqueueOutcome
    }
    counts_text = join_counts(counts)
    n_new = len(enqueued) - counts[EnqueueOutcome.EXISTS]
    if worked_here:
        note(counts_text)
        return
    note(f"{counts_text}; " + ("next: lsqctl worker --until-empty" if n_new else "nothing to do"))
