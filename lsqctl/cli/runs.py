"""`runs ls|show|logs|cancel|retry|diff`: list and show runs, and steer them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.console import note, print_json, print_table, say, to_json_types
from lsqctl.cli.groups import CommandGroup
from lsqctl.cli.options import (
    Json,
    OnlyOwn,
    Quiet,
    RunArgument,
    RunArguments,
    Where,
    get_settings,
    open_store,
    positive_int,
)
from lsqctl.cli.run_detail import (
    evaluation_json,
    print_attempts,
    print_metrics,
    print_quantizers,
    print_run,
)
from lsqctl.errors import NotFound
from lsqctl.run import ACTIVE_STATES, RECORDED, EndReason, Run, RunState
from lsqctl.settings import current_user
from lsqctl.text import ago, join_counts, pluralize

if TYPE_CHECKING:
    from lsqctl.store import Store

app = typer.Typer(
    cls=CommandGroup,
    help="List and show runs, and steer them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

States = Annotated[
    list[RunState] | None, typer.Option("--state", help="Only runs in this state; repeatable.")
]
_LEAST_IMPORTANT = ("created", "note", "user", "tags", "epoch", "seed", "reason", "Top-1 %")


@app.command("ls", epilog="Example: lsqctl runs ls --state failed")
def list_runs(
    ctx: typer.Context,
    state: States = None,
    name: Annotated[str | None, typer.Option(help="Only runs of this name.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Only cells of this sweep.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only runs with this tag.")] = None,
    where: Where = None,
    only_own: OnlyOwn = False,
    limit: Annotated[
        int, typer.Option(parser=positive_int, metavar="N", help="At most so many, newest first.")
    ] = 50,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List runs, newest first."""
    from lsqctl.filters.expression import Comparison, narrowed
    from lsqctl.filters.parser import parse
    from lsqctl.filters.run_columns import RUN_COLUMN_KINDS
    from lsqctl.services.run_control import resolve_sweep

    expression = None if where is None else parse(where, RUN_COLUMN_KINDS)
    if only_own:
        expression = narrowed(expression, Comparison("user", "=", (current_user(),)))
    with open_store(ctx) as store:
        sweep = resolve_sweep(store, sweep) if sweep is not None else None
        runs = store.runs.list(
            states=state, name=name, sweep=sweep, tag=tag, where=expression, limit=limit + 1
        )
        counts = store.runs.counts()
        shown, has_more = runs[:limit], len(runs) > limit
        tags = {} if quiet else store.runs.tags([run.id for run in shown])
    if json:
        print_json({"runs": [to_json_types(run) | {"tags": tags.get(run.id, ())} for run in shown]})
    elif quiet:
        for run in shown:
            print(run.id)
    elif not shown and any(counts.values()):
        say("no run is like that; `lsqctl runs ls` without a filter shows all")
    elif not shown:
        say("no runs yet; try `lsqctl recipe ls`, then `lsqctl submit RECIPE`")
    else:
        _print_runs(shown, tags)
        more = f"; the newest {limit} shown, --limit for more" if has_more else ""
        is_narrowed = any((state, name, sweep, tag, expression))
        note(f"{_counts_text(shown, counts, is_narrowed=is_narrowed)}{more}")


def _counts_text(shown: Sequence[Run], counts: Mapping[RunState, int], *, is_narrowed: bool) -> str:
    """Return how many runs are in each state; of those that a filter leaves, and of how many."""
    if not is_narrowed:
        return join_counts(counts)
    left = {state: sum(run.state is state for run in shown) for state in RunState}
    return f"{join_counts(left)} of {pluralize(sum(counts.values()), 'run')}"


def _print_runs(runs: Sequence[Run], tags: Mapping[str, Sequence[str]]) -> None:
    """Print a line for each run; whose it is only where they are of several users."""
    several_users = len({run.user for run in runs}) > 1
    labels = ("user", "tags", "note")
    print_table(
        ("id", "run", "seed", "state", "epoch", "Top-1 %", "created", "reason", *labels),
        [
            (
                *_run_row(run),
                run.user if several_users else "",
                " ".join(tags.get(run.id, ())),
                run.note,
            )
            for run in runs
        ],
        right_aligned=("seed", "epoch", "Top-1 %"),
        hide_first=_LEAST_IMPORTANT,
        names=("run",),
        texts=("reason", "tags", "note"),
    )


@app.command(epilog="Example: lsqctl runs show @last")
def show(
    ctx: typer.Context,
    run_ref: RunArgument,
    layers: Annotated[
        bool, typer.Option("--layers", help="Its quantizers, layer by layer, and what stands out.")
    ] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="What each layer costs, finished or not.")
    ] = False,
    json: Json = False,
) -> None:
    """Show all that is known of one run."""
    from lsqctl.cli.run_detail import print_layer_costs, result_cost_json, stored_recipe_cost

    with open_store(ctx) as store:
        run = store.runs.resolve(run_ref)
        detail = store.runs.detail(run.id)
        if layers:
            print_quantizers(detail, store.metrics.quantizer_stats(run.id), json=json)
            return
        summaries = store.metrics.summaries(run.id)
        result = store.results.get(run.id)
        checkpoints = store.checkpoints.list(run.id)
        tags = store.runs.tags([run.id]).get(run.id, ())
    folder = get_settings(ctx).run_dir(run.id)
    costs = stored_recipe_cost(detail.recipe, get_settings(ctx)) if cost else None
    if json:
        evaluations = result.evaluations if result else ()
        print_json(
            {
                "run": detail.run,
                "tags": tags,
                "recipe": detail.recipe,
                "provenance": detail.provenance,
                "parents": detail.parents,
                "attempts": detail.attempts,
                "metrics": summaries,
                "results": [evaluation_json(evaluation) for evaluation in evaluations],
                "checkpoints": checkpoints,
                "cost": costs.as_dict() if costs else result_cost_json(result),
                "run_dir": folder,
            }
        )
        return
    print_run(detail, folder, tags, result)
    print_metrics(summaries)
    print_attempts(detail)
    print_layer_costs(costs)


@app.command(epilog="Example: lsqctl runs logs -f @last")
def logs(
    ctx: typer.Context,
    run_ref: RunArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends, into later attempts.")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option(parser=positive_int, metavar="N", help="Default: the latest.")
    ] = None,
    tail: Annotated[
        int | None,
        typer.Option(
            "--tail", "-n", parser=positive_int, metavar="N", help="Only its last N lines."
        ),
    ] = None,
) -> None:
    """Print the log of a run's attempt."""
    from lsqctl.services.logs import follow_log, read_log

    with open_store(ctx) as store:
        run = store.runs.resolve(run_ref)
        folder = get_settings(ctx).run_dir(run.id)
        if attempt and attempt > max(1, run.attempt):
            n_attempts = pluralize(run.attempt, "attempt")
            raise NotFound(f"run {run.id} has no attempt {attempt}: it has had {n_attempts}")
        if follow:
            first = attempt or (max(1, run.attempt) if tail else 1)
            pieces = follow_log(store, run.id, folder, first, tail_lines=tail, notify=note)
        else:
            pieces = read_log(store, run.id, folder, attempt, tail_lines=tail)
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()


@app.command(epilog="Example: lsqctl runs cancel @last")
def cancel(ctx: typer.Context, run_refs: RunArguments, json: Json = False) -> None:
    """Cancel queued runs at once, running ones at the next step."""
    with open_store(ctx) as store:
        _change_each(store, run_refs, store.runs.cancel, json=json)


@app.command(epilog="Example: lsqctl runs retry 7kq2")
def retry(
    ctx: typer.Context,
    run_refs: RunArguments,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Delete the checkpoints and start anew.")
    ] = False,
    json: Json = False,
) -> None:
    """Put failed or cancelled runs back into the queue.

    They resume from their checkpoints.
    """
    from lsqctl.services.run_control import retry_run

    with open_store(ctx) as store:
        change = partial(retry_run, store, get_settings(ctx), from_scratch=from_scratch)
        _change_each(store, run_refs, change, json=json)


@app.command(epilog="Example: lsqctl runs diff @last~1 @last")
def diff(
    ctx: typer.Context, left_ref: RunArgument, right_ref: RunArgument, json: Json = False
) -> None:
    """Show what differs between two runs.

    In recipe, environment and results.
    """
    from lsqctl.services.diff import diff_runs

    with open_store(ctx) as store:
        left, right = store.runs.resolve(left_ref), store.runs.resolve(right_ref)
        deviations = diff_runs(store, left.id, right.id)
    if json:
        print_json({"left": left.id, "right": right.id, "deviations": deviations})
        return
    if not deviations:
        say(f"{left.id} and {right.id} do not differ in recipe, environment or results")
        return
    print_table(
        ("key", f"{left.id} {left.name}", f"{right.id} {right.name}"),
        [(d.key, _value_text(d.key, d.left), _value_text(d.key, d.right)) for d in deviations],
    )


def _held_mark(run: Run) -> str:
    return " (held)" if run.held and run.state in ACTIVE_STATES else ""


def _run_row(run: Run) -> tuple[str, ...]:
    state = "lease expired" if run.lease_expired else run.state.value
    return (
        run.id,
        run.name,
        str(run.seed),
        state + _held_mark(run) + (" (recorded)" if run.origin == RECORDED else ""),
        f"{run.epoch}/{run.epochs}",
        "" if run.top1 is None else f"{run.top1:.2f}",
        ago(run.created_at),
        _end_text(run),
    )


def _end_text(run: Run) -> str:
    """Return why a run failed, or at which rung it was stopped."""
    if run.state is RunState.FAILED:
        return f"{run.reason}: {run.message}"
    return run.message if run.reason is EndReason.STOPPED else ""


def _change_each(
    store: Store, run_refs: Sequence[str], change: Callable[[str], object], *, json: bool
) -> None:
    """Change runs one by one; what was done is told, also where the next one cannot be."""
    ids = [store.runs.resolve(ref).id for ref in run_refs]
    changed = []
    try:
        for run_id in ids:
            change(run_id)
            changed.append(run_id)
    finally:
        if changed:
            _print_changed([store.runs.detail(run_id).run for run_id in changed], json=json)


def _print_changed(runs: list[Run], *, json: bool) -> None:
    if json:
        print_json({"runs": runs})
        return
    for run in runs:
        cancelling = (
            " (asked to stop)" if run.cancel_requested and run.state is RunState.RUNNING else ""
        )
        say(f"{run.id}  {run.name}  {run.state}{_held_mark(run)}{cancelling}")


def _value_text(key: str, value: object) -> str:
    """Return a value as it was written; a result in percent, to a thousandth."""
    if isinstance(value, float) and key.startswith("result."):
        return f"{value:.3f}"
    return "–" if value is None else str(value)
