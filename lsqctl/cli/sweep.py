"""`sweep ls|status|resume`: the states of a sweep's cells, and requeueing those that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli import completion
from lsqctl.cli.console import note, print_json, print_table, say
from lsqctl.cli.groups import CommandGroup
from lsqctl.cli.options import Json, Quiet, get_settings, non_negative_int, open_store
from lsqctl.run import EndReason, EnqueuedRun, RunState
from lsqctl.text import ago, pluralize

if TYPE_CHECKING:
    from lsqctl.store.sweeps import SweepCell

app = typer.Typer(
    cls=CommandGroup, help="List and show sweeps.", no_args_is_help=True, rich_markup_mode=None
)
SweepName = Annotated[
    str | None,
    typer.Argument(help="A sweep; default: the newest.", autocompletion=completion.sweeps),
]
NO_SWEEPS = "no sweeps yet; a recipe with a `sweep:` section makes one when it is submitted"


@app.callback()
def group() -> None:
    """List and show sweeps, and resume them."""


@app.command("ls", epilog="Example: lsqctl sweep ls")
def list_sweeps(ctx: typer.Context, json: Json = False, quiet: Quiet = False) -> None:
    """List sweeps, the newest first, and the states of their cells."""
    with open_store(ctx) as store:
        summaries = store.sweeps.summaries()[::-1]
    if json:
        print_json({"sweeps": summaries})
    elif quiet:
        for summary in summaries:
            print(summary.name)
    elif not summaries:
        say(NO_SWEEPS)
    else:
        print_table(
            ("sweep", "cells", "states", "created"),
            [
                (
                    summary.name,
                    str(sum(summary.counts.values())),
                    _counts_text(summary.counts),
                    ago(summary.created_at),
                )
                for summary in summaries
            ],
            right_aligned=("cells",),
            hide_first=("created", "cells"),
            names=("sweep",),
            texts=("states",),
        )


@app.command(epilog="Example: lsqctl sweep status digits/resnet8-lsq")
def status(
    ctx: typer.Context, name: SweepName = None, json: Json = False, quiet: Quiet = False
) -> None:
    """Show each cell of a sweep and its run."""
    from lsqctl.services.run_control import resolve_sweep
    from lsqctl.services.watch import read_pilots

    with open_store(ctx) as store:
        sweep_name = resolve_sweep(store, name)
        cells = store.sweeps.cells(sweep_name) if sweep_name else []
    pilots = read_pilots(get_settings(ctx).home)
    counts = Counter(cell.status for cell in cells)
    if json:
        print_json({"sweep": sweep_name, "counts": counts, "cells": cells, "pilots": pilots})
        return
    if quiet:
        for cell in cells:
            if cell.run:
                print(cell.run.id)
        return
    if not cells:
        say(NO_SWEEPS)
        return
    _print_cells(cells)
    note(f"{sweep_name}: {_counts_text(counts)}")
    for pilot in pilots:
        details = " ".join(filter(None, (pilot.state, pilot.node, pilot.reason)))
        note(f"pilot {pilot.job} ({pilot.profile}): {details}")
    _print_first_failure(cells, str(sweep_name))


def _print_cells(cells: Sequence[SweepCell]) -> None:
    print_table(
        ("cell", "seed", "state", "Top-1 %", "run"),
        [
            (
                cell.cell or "–",
                str(cell.seed),
                cell.status,
                f"{cell.run.top1:.2f}" if cell.run and cell.run.top1 is not None else "",
                cell.run.id if cell.run else "",
            )
            for cell in cells
        ],
        right_aligned=("seed", "Top-1 %"),
        hide_first=("Top-1 %",),
        names=("cell",),
    )


@app.command(epilog="Example: lsqctl sweep resume digits/resnet8-lsq --failed --from-scratch")
def resume(
    ctx: typer.Context,
    name: SweepName = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Failed and cancelled cells; alone, only they.")
    ] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="Cells whose run was removed; alone, only they.")
    ] = False,
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch/--from-checkpoint", help="Delete the checkpoints, or go on from them."
        ),
    ] = False,
    max_failures: Annotated[
        int | None,
        typer.Option(
            parser=non_negative_int,
            metavar="N",
            help="Stop at N failed cells from now on; 0: never.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put failed and cancelled cells of a sweep back into the queue.

    Removed ones, too; all or none.

    Failed parents come along. A limit (submit --max-failures) counts anew what fails from now on.
    """
    from lsqctl.services import run_control as api
    from lsqctl.store.sweeps import ResumeOptions

    both = failed == missing
    options = ResumeOptions(failed or both, missing or both, from_scratch, max_failures, dry_run)
    with open_store(ctx) as store:
        resumed = api.resume_sweep(store, get_settings(ctx), name, options)
    _print_resumed(resumed, dry_run=dry_run, json=json, quiet=quiet)


def _print_resumed(
    resumed: Sequence[EnqueuedRun], *, dry_run: bool, json: bool, quiet: bool
) -> None:
    if json:
        keys = ("id", "name", "seed", "state")
        rows = [
            {"outcome": item.outcome, **{key: getattr(item.run, key) for key in keys}}
            for item in resumed
        ]
        print_json({"dry_run": dry_run, "runs": rows})
        return
    if quiet:
        for item in resumed:
            print(item.run.id)
        return
    if resumed:
        print_table(
            ("run", "seed", "outcome"),
            [(item.run.name, str(item.run.seed), item.outcome) for item in resumed],
            right_aligned=("seed",),
            names=("run",),
        )
    if dry_run:
        say(f"{pluralize(len(resumed), 'cell')} would be requeued; nothing was changed")
    elif resumed:
        note(f"{pluralize(len(resumed), 'cell')} requeued; next: lsqctl worker --until-empty")
    else:
        say("no cell to requeue")


def _counts_text(counts: Mapping[str, int]) -> str:
    """Return the counts in words, in the order in which a cell goes through them."""
    states = [*(state.value for state in RunState), "stopped", "lease_expired", "held", "missing"]
    return ", ".join(f"{counts[status]} {status}" for status in states if counts.get(status))


def _print_first_failure(cells: Sequence[SweepCell], name: str) -> None:
    """Say why the first cell failed (a cause before its consequences), and what to do next."""
    failed_runs = [cell.run for cell in cells if cell.run and cell.run.state is RunState.FAILED]
    if failed_runs:
        first = min(
            failed_runs,
            key=lambda run: (run.reason is EndReason.PARENT, run.finished_at or run.created_at),
        )
        say(f"first failure: {first.name} ({first.id}): {first.reason}: {first.message}")
    resumable = {RunState.FAILED, RunState.CANCELLED}
    if any(
        cell.run is None or (cell.run.state in resumable and cell.status != "stopped")
        for cell in cells
    ):
        say(f"next: lsqctl sweep resume {name}")
