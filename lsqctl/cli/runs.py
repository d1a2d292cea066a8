"""`runs ls|show|logs|cancel|retry|diff`: look at runs and steer them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lsqctl.cli.render import ago, note, plain, print_json, print_table, say
from lsqctl.cli.run_detail import print_attempts, print_detail, print_metrics, without_hits
from lsqctl.cli.run_layers import print_quantizers
from lsqctl.cli.state import (
    Json,
    Quiet,
    RunArgument,
    RunArguments,
    Where,
    positive,
    settings,
    workspace,
)
from lsqctl.run import UNFINISHED, Run, RunState

app = typer.Typer(help="Look at runs and steer them.", no_args_is_help=True, rich_markup_mode=None)

States = Annotated[
    list[RunState] | None, typer.Option("--state", help="Only runs in this state; repeatable.")
]


@app.command("ls", epilog="Example: lsqctl runs ls --state failed")
def list_runs(
    ctx: typer.Context,
    state: States = None,
    name: Annotated[str | None, typer.Option(help="Only runs of this name.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Only cells of this sweep.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only runs with this tag.")] = None,
    where: Where = None,
    limit: Annotated[
        int, typer.Option(parser=positive, metavar="N", help="At most so many, newest first.")
    ] = 50,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List runs, newest first."""
    from lsqctl.api.sweeps import sweep_named
    from lsqctl.filters.names import OF_RUNS
    from lsqctl.filters.parsing import parse

    tree = None if where is None else parse(where, OF_RUNS)
    with workspace(ctx) as store:
        sweep = sweep_named(store, sweep) if sweep is not None else None
        found = store.runs(
            states=state, name=name, sweep=sweep, tag=tag, where=tree, limit=limit + 1
        )
        counts = store.counts()
        shown, more = found[:limit], len(found) > limit
        tags = store.tags([run.id for run in shown]) if json else {}
    if json:
        print_json({"runs": [plain(run) | {"tags": tags.get(run.id, ())} for run in shown]})
    elif quiet:
        for run in shown:
            print(run.id)
    elif not shown and any(counts.values()):
        say("no run is like that; `lsqctl runs ls` without a filter shows all")
    elif not shown:
        say("no runs yet; try `lsqctl recipe ls`, then `lsqctl submit RECIPE`")
    else:
        print_table(
            ("id", "run", "seed", "state", "epoch", "Top-1 %", "created", "reason"),
            [_row(run) for run in shown],
            right=("seed", "epoch", "Top-1 %"),
            give_way=("created", "seed", "epoch"),
        )
        told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        note(f"{told}" + (f"; the newest {limit} shown, --limit for more" if more else ""))


@app.command(epilog="Example: lsqctl runs show @last")
def show(
    ctx: typer.Context,
    run: RunArgument,
    layers: Annotated[
        bool, typer.Option("--layers", help="Its quantizers, layer by layer, and what stands out.")
    ] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="What each layer costs, finished or not.")
    ] = False,
    json: Json = False,
) -> None:
    """Show all that is known of one run."""
    from lsqctl.cli.cost import cost_of_layers, cost_of_result, print_layers

    with workspace(ctx) as store:
        found = store.resolve(run)
        if layers:
            print_quantizers(found.id, store.quantizer_stats(found.id), json=json)
            return
        detail = store.detail(found.id)
        summaries = store.summaries(found.id)
        result = store.full_result(found.id)
        checkpoints = store.checkpoints(found.id)
        tags = store.tags([found.id]).get(found.id, ())
    folder = settings(ctx).run_dir(found.id)
    costs = cost_of_layers(detail.recipe, settings(ctx)) if cost else None
    if json:
        evaluations = result.evaluations if result else ()
        print_json(
            {
                "run": detail.run,
                "tags": tags,
                "recipe": detail.recipe,
                "snapshot": detail.snapshot,
                "parents": detail.parents,
                "attempts": detail.attempts,
                "metrics": summaries,
                "results": [without_hits(one) for one in evaluations],
                "checkpoints": checkpoints,
                "cost": costs.as_dict() if costs else cost_of_result(result),
                "folder": folder,
            }
        )
        return
    print_detail(detail, str(folder), tags, result)
    print_metrics(summaries)
    print_attempts(detail)
    print_layers(costs)


@app.command(epilog="Example: lsqctl runs logs -f @last")
def logs(
    ctx: typer.Context,
    run: RunArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends, into later attempts.")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option(parser=positive, metavar="N", help="Default: the latest.")
    ] = None,
) -> None:
    """Print the log of a run's attempt."""
    from lsqctl.api.logs import follow_log, read_log

    with workspace(ctx) as store:
        found = store.resolve(run)
        folder = settings(ctx).run_dir(found.id)
        if follow:
            for piece in follow_log(store, found.id, folder, attempt or 1, say=note):
                sys.stdout.write(piece)
                sys.stdout.flush()
        else:
            sys.stdout.write(read_log(store, found.id, folder, attempt))


@app.command(epilog="Example: lsqctl runs cancel @last")
def cancel(ctx: typer.Context, runs: RunArguments, json: Json = False) -> None:
    """Cancel runs: queued ones at once, running ones at their next step."""
    with workspace(ctx) as store:
        ids = [store.resolve(ref).id for ref in runs]
        for run_id in ids:
            store.cancel(run_id)
        ended = [store.detail(run_id).run for run_id in ids]
    _changed(ended, json=json)


@app.command(epilog="Example: lsqctl runs retry 7kq2")
def retry(
    ctx: typer.Context,
    runs: RunArguments,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Forget the checkpoints and start anew.")
    ] = False,
    json: Json = False,
) -> None:
    """Put failed or cancelled runs back into the queue; they resume from their checkpoints."""
    from lsqctl.api.retry import retry_run

    with workspace(ctx) as store:
        ids = [store.resolve(ref).id for ref in runs]
        for run_id in ids:
            retry_run(store, settings(ctx), run_id, from_scratch=from_scratch)
        ended = [store.detail(run_id).run for run_id in ids]
    _changed(ended, json=json)


@app.command(epilog="Example: lsqctl runs diff @last~1 @last")
def diff(ctx: typer.Context, first: RunArgument, second: RunArgument, json: Json = False) -> None:
    """Show only what differs between two runs: recipe, circumstances, results."""
    from lsqctl.api.diff import diff_runs

    with workspace(ctx) as store:
        a, b = store.resolve(first), store.resolve(second)
        differences = diff_runs(store, a.id, b.id)
    if json:
        print_json({"first": a.id, "second": b.id, "differences": differences})
        return
    if not differences:
        say(f"{a.id} and {b.id} do not differ in recipe, circumstances or results")
        return
    print_table(
        ("key", f"{a.id} {a.name}", f"{b.id} {b.name}"),
        [(one.key, _text(one.first), _text(one.second)) for one in differences],
    )


def _row(run: Run) -> tuple[str, ...]:
    state = "lost" if run.lease_lapsed else run.state.value
    held = " (held)" if run.held and run.state in UNFINISHED else ""
    return (
        run.id,
        run.name,
        str(run.seed),
        state + held,
        f"{run.epoch}/{run.epochs}",
        "" if run.top1 is None else f"{run.top1:.2f}",
        ago(run.created_at),
        f"{run.reason}: {run.message}" if run.state is RunState.FAILED else "",
    )


def _changed(runs: list[Run], *, json: bool) -> None:
    if json:
        print_json({"runs": runs})
        return
    for run in runs:
        asked = " (asked to stop)" if run.cancel_requested and run.state is RunState.RUNNING else ""
        held = " (held)" if run.held and run.state in UNFINISHED else ""
        say(f"{run.id}  {run.name}  {run.state}{held}{asked}")


def _text(value: object) -> str:
    return "–" if value is None else str(value)
