"""`runs ls|show|logs|cancel|retry|diff`: look at runs and steer them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from lsqctl.cli.render import ago, duration, note, print_json, print_table, say
from lsqctl.cli.state import Json, Quiet, RunArgument, RunArguments, settings, workspace
from lsqctl.run import MetricSummary, Run, RunDetail, RunState

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
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List runs, newest first."""
    with workspace(ctx) as store:
        found = store.runs(states=state, name=name, sweep=sweep, limit=limit + 1)
        counts = store.counts()
    shown, more = found[:limit], len(found) > limit
    if json:
        print_json({"runs": shown})
    elif quiet:
        for run in shown:
            print(run.id)
    elif not shown:
        say("no runs yet; try `lsqctl recipe ls`, then `lsqctl submit RECIPE`")
    else:
        print_table(
            ("id", "run", "seed", "state", "epoch", "Top-1 %", "created", "reason"),
            [_row(run) for run in shown],
            right=("seed", "epoch", "Top-1 %"),
        )
        told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        note(f"{told}" + (f"; the newest {limit} shown, --limit for more" if more else ""))


@app.command(epilog="Example: lsqctl runs show @last")
def show(ctx: typer.Context, run: RunArgument, json: Json = False) -> None:
    """Show all that is known of one run."""
    with workspace(ctx) as store:
        found = store.resolve(run)
        detail = store.detail(found.id)
        summaries = store.summaries(found.id)
        evaluations = store.result(found.id)
        checkpoints = store.checkpoints(found.id)
    folder = settings(ctx).run_dir(found.id)
    if json:
        print_json(
            {
                "run": detail.run,
                "recipe": detail.recipe,
                "snapshot": detail.snapshot,
                "parents": detail.parents,
                "attempts": detail.attempts,
                "metrics": summaries,
                "results": [_without_hits(one) for one in evaluations],
                "checkpoints": checkpoints,
                "folder": folder,
            }
        )
        return
    _print_detail(detail, str(folder))
    _print_metrics(summaries)
    _print_attempts(detail)


@app.command(epilog="Example: lsqctl runs logs -f @last")
def logs(
    ctx: typer.Context,
    run: RunArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends, into later attempts.")
    ] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="Default: the latest.")] = None,
) -> None:
    """Print the log of a run's attempt."""
    from lsqctl.api.logs import follow_log, read_log

    with workspace(ctx) as store:
        found = store.resolve(run)
        folder = settings(ctx).run_dir(found.id)
        if follow:
            for piece in follow_log(store, found.id, folder):
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
    held = " (held)" if run.held else ""
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
        say(f"{run.id}  {run.name}  {run.state}{asked}")


def _print_detail(detail: RunDetail, folder: str) -> None:
    run = detail.run
    facts = {
        "run": run.name,
        "id": run.id,
        "state": "lost (its worker does not renew)" if run.lease_lapsed else run.state.value,
        "reason": f"{run.reason}: {run.message}" if run.message else str(run.reason or ""),
        "seed": str(run.seed),
        "epoch": f"{run.epoch} of {run.epochs}, step {run.step} of {run.total_steps}",
        "Top-1": "" if run.top1 is None else f"{run.top1:.2f} %",
        "waits for": ", ".join(f"{role}: {parent}" for role, parent in detail.parents.items()),
        "created": ago(run.created_at),
        "recipe": run.recipe_sha256[:16],
        "commit": _commit(detail.snapshot),
        "folder": folder,
    }
    print_table(("", ""), [(key, value) for key, value in facts.items() if value])


def _commit(snapshot: Mapping[str, object]) -> str:
    git = snapshot.get("git")
    if not isinstance(git, Mapping) or not git:
        return ""
    return f"{str(git['commit'])[:12]}{' with changes' if git['dirty'] else ''}"


def _print_metrics(summaries: list[MetricSummary]) -> None:
    if summaries:
        print()
        print_table(
            ("metric", "last", "at step", "best", "at step"),
            [
                (
                    f"{one.split}/{one.name}",
                    f"{one.last:.6g}",
                    str(one.last_step),
                    f"{one.best:.6g}",
                    str(one.best_step),
                )
                for one in summaries
            ],
            right=("last", "at step", "best"),
        )


def _print_attempts(detail: RunDetail) -> None:
    if not detail.attempts:
        return
    print()
    print_table(
        ("attempt", "worker", "took", "ended", "message"),
        [
            (
                str(one.number),
                one.worker,
                duration((one.finished_at - one.started_at).total_seconds())
                if one.finished_at
                else "",
                str(one.reason or "running"),
                one.message,
            )
            for one in detail.attempts
        ],
    )


def _without_hits(evaluation: object) -> dict[str, object]:
    from lsqctl.cli.render import plain

    found: dict[str, object] = plain(evaluation)
    found.pop("hits", None)
    return found


def _text(value: object) -> str:
    return "–" if value is None else str(value)
