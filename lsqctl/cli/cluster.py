"""`cluster`: let a scheduler start workers as the queue needs them; `cluster.toml` says how."""

from __future__ import annotations

from typing import Annotated

import typer

from lsqctl.cli.console import note, print_json, print_table, say
from lsqctl.cli.groups import CommandGroup
from lsqctl.cli.options import (
    Json,
    get_settings,
    non_negative_int,
    open_store,
    positive_duration_seconds,
    positive_int,
)

app = typer.Typer(
    cls=CommandGroup,
    help="Workers that a scheduler starts: Slurm, or hosts by ssh.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ProfileName = Annotated[
    str, typer.Argument(metavar="PROFILE", help="A [name] in cluster.toml of the workspace.")
]
PilotGpus = Annotated[
    int,
    typer.Option("--gpus", parser=positive_int, metavar="N", help="A pilot for runs with N GPUs."),
]


@app.command(epilog="Example: lsqctl cluster work gpu --until-empty")
def work(
    ctx: typer.Context,
    profile: ProfileName,
    poll: Annotated[
        float,
        typer.Option(
            parser=positive_duration_seconds, metavar="TIME", help="Ask the scheduler this often."
        ),
    ] = 20.0,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when no run is left but held ones.")
    ] = False,
) -> None:
    """Send pilots for what is queued, until Ctrl-C.

    It may be stopped and started at any time: pilots go on, and are found again by their names.
    """
    from lsqctl.services.cluster import dispatch, open_cluster

    cluster = open_cluster(get_settings(ctx), profile)
    with open_store(ctx, create=True, wait=True) as store:
        try:
            dispatch(cluster, store, say, poll_seconds=poll, until_empty=until_empty)
        except KeyboardInterrupt:
            say("pilots go on, and end when they have nothing to do")


@app.command(epilog="Example: lsqctl cluster status gpu")
def status(ctx: typer.Context, profile: ProfileName, json: Json = False) -> None:
    """Show the pilots: job id, node, state and reason.

    As the scheduler gives them.
    """
    from lsqctl.services.cluster import open_cluster, pilot_row, read_status

    cluster = open_cluster(get_settings(ctx), profile)
    with open_store(ctx) as store:
        rows = [pilot_row(profile, one) for one in read_status(cluster, store)]
    if json:
        print_json({"pilots": rows})
        return
    columns = ("job", "gpus", "state", "node", "role", "worker", "reason")
    print_table(columns, [[row[name] for name in columns] for row in rows], right_aligned=("gpus",))
    if not rows:
        note(f"no pilot; `lsqctl cluster work {profile}` sends them for queued runs")


@app.command(epilog="Example: lsqctl cluster script gpu")
def script(ctx: typer.Context, profile: ProfileName, gpus: PilotGpus = 1) -> None:
    """Print what a pilot's job would run; nothing is sent."""
    from lsqctl.services.cluster import open_cluster

    cluster = open_cluster(get_settings(ctx), profile)
    print(cluster.scheduler.script(cluster.request(gpus)), end="")


@app.command(epilog="Example: lsqctl cluster check gpu")
def check(
    ctx: typer.Context, profile: ProfileName, gpus: PilotGpus = 1, json: Json = False
) -> None:
    """Ask whether a pilot would start.

    And how long it may take to save; exit 1 on an error.
    """
    from lsqctl.services import cluster as service

    opened = service.open_cluster(get_settings(ctx), profile, prepare=False)
    with open_store(ctx, create=True) as store:
        findings = list(service.check(opened, store, gpus))
    if json:
        print_json({"findings": findings})
    else:
        rows = [(finding.level, finding.message, finding.fix) for finding in findings]
        print_table(("", "finding", "fix"), rows)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


@app.command(hidden=True, epilog="Example: lsqctl cluster join --token TOKEN --expect VERSION")
def join(
    ctx: typer.Context,
    token: Annotated[str, typer.Option(help="What the workspace's own file must hold.")],
    expect: Annotated[str, typer.Option(help="The version that this lsqctl must have.")],
    gpus: Annotated[
        int, typer.Option(parser=non_negative_int, help="How many GPUs were asked for.")
    ] = 0,
) -> None:
    """Check, in a pilot, that it may become a worker here.

    Its script calls this.
    """
    from lsqctl.services.cluster import join as check_pilot

    check_pilot(get_settings(ctx), gpus=gpus, token=token, expect=expect)
