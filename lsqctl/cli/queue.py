"""`submit`, `run` and `worker`: put recipes into the queue and work it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.durations import positive_duration
from lsqctl.cli.options import (
    Exists,
    FailFast,
    Gpus,
    Hold,
    MaxFailures,
    Priority,
    Recipes,
    Reserved,
    Seeds,
    Sets,
    SkipData,
    Slots,
    TimeLimit,
)
from lsqctl.cli.render import note, print_json, print_table, say, warn
from lsqctl.cli.state import Json, Quiet, settings, workspace
from lsqctl.errors import RunFailed, UsageError
from lsqctl.run import Enqueued, NewRun, Outcome, RunState

if TYPE_CHECKING:
    from lsqctl.api.submit import Options, Plan
    from lsqctl.store import Store
    from lsqctl.worker.options import Options as Working


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the top level."""
    app.command(epilog="Example: lsqctl submit digits/resnet8-lsq --seed 0 --seed 1")(submit)
    app.command(epilog="Example: lsqctl run digits/resnet8-fp32 --set train.epochs=3")(run)
    app.command(epilog="Example: lsqctl worker --until-empty --slots 2")(worker)


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
    plan = _plan(ctx, recipes, options)
    if dry_run:
        _print_plan(plan, json=json)
        return
    with workspace(ctx, create=True) as store:
        _print_enqueued(api.submit(plan, store, if_exists=if_exists), plan, json=json, quiet=quiet)


def run(
    ctx: typer.Context,
    recipes: Recipes,
    sets: Sets = None,
    seeds: Seeds = None,
    if_exists: Exists = "skip",
    skip_data_check: SkipData = False,
    slots: Slots = None,
    gpus: Gpus = "auto",
) -> None:
    """Submit recipes and work the queue here, until it is empty."""
    from lsqctl.api import submit as api
    from lsqctl.worker.options import Options as Working

    wanted = api.Options(tuple(sets or ()), tuple(seeds or ()), not skip_data_check)
    plan = _plan(ctx, recipes, wanted)
    with workspace(ctx, create=True) as store:
        enqueued = api.submit(plan, store, if_exists=if_exists)
        _print_enqueued(enqueued, plan, json=False, quiet=False)
        options = Working(until_empty=True)
        code = _work(ctx, store, slots=slots, gpus=gpus, name=None, options=options)
        ended = [store.detail(one.run.id).run for one in enqueued]
    if code:
        raise typer.Exit(code)
    bad = [one for one in ended if one.state is not RunState.SUCCEEDED]
    if bad:
        listed = ", ".join(f"{one.name} ({one.id}) {one.state}" for one in bad[:5])
        raise RunFailed(f"{len(bad)} of {len(ended)} runs did not succeed: {listed}")


def worker(
    ctx: typer.Context,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when no run is left but held ones.")
    ] = False,
    slots: Slots = None,
    gpus: Gpus = "auto",
    name: Annotated[
        str | None, typer.Option(help="What lists call this worker; no other may be called so.")
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            parser=positive_duration,
            metavar="TIME",
            help="Then save every run, put it back and end: 90m, 2h, 1h30m, or seconds.",
        ),
    ] = None,
) -> None:
    """Take runs from the queue and execute each in a process of its own.

    Ctrl-C, SIGTERM or SIGUSR1 once: save every run and put it back.  Twice: stop at once.
    """
    from lsqctl.worker.options import Options as Working

    options = Working(until_empty, time_limit_seconds=time_limit, own_name=name is not None)
    with workspace(ctx, create=True) as store:
        code = _work(ctx, store, slots=slots, gpus=gpus, name=name, options=options)
    raise typer.Exit(code)


def _work(
    ctx: typer.Context,
    store: Store,
    *,
    slots: int | None,
    gpus: str,
    name: str | None,
    options: Working,
) -> int:
    from lsqctl.cli.hangup import unbroken_words
    from lsqctl.cli.live import watching
    from lsqctl.worker.gpus import choose, open_eyes
    from lsqctl.worker.identity import this_worker
    from lsqctl.worker.places import Places
    from lsqctl.worker.slots import make_slots
    from lsqctl.worker.supervise import Supervisor

    eyes = open_eyes()
    picked, watch = choose(gpus, eyes)
    places = Places(make_slots(picked, slots), watch if picked else None)
    if picked and gpus == "auto" and eyes.blind:
        warn(f"a GPU that others use cannot be told from an idle one ({eyes.blind})")
    identity = this_worker(name, len(places.pool.slots), "cuda" if picked else "cpu")
    with unbroken_words(), watching(store) as observer:
        supervisor = Supervisor(
            store,
            settings(ctx),
            identity=identity,
            places=places,
            observer=observer,
            options=options,
        )
        return supervisor.run()


def _plan(ctx: typer.Context, recipes: Sequence[str], options: Options) -> Plan:
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
        warn(str(fault))
    if json:
        print_json({"runs": [_planned(new) for new in plan.runs]})
        return
    print_table(
        ("run", "seed", "epochs", "waits for"),
        [(new.name, str(new.seed), str(new.epochs), _waits(new, plan)) for new in plan.runs],
        right=("seed", "epochs"),
    )
    say(f"{len({one.run_sha256 for one in plan.runs})} runs would be queued; nothing was")


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
    return ", ".join(names.get(sha, sha[:8]) for sha in new.parents.values())


def _print_enqueued(enqueued: Sequence[Enqueued], plan: Plan, *, json: bool, quiet: bool) -> None:
    for fault in plan.warnings:
        warn(str(fault))
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
