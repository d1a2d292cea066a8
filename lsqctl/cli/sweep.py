"""`sweep ls|status|resume`: how a sweep's cells stand, and putting back what came to nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli import completing
from lsqctl.cli.render import ago, note, print_json, print_table, say
from lsqctl.cli.state import Json, Quiet, natural, settings, workspace
from lsqctl.run import EndReason, Enqueued, RunState
from lsqctl.wording import counted

if TYPE_CHECKING:
    from lsqctl.store.sweeps import SweepCell

app = typer.Typer(help="Look at sweeps.", no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[
    str | None,
    typer.Argument(help="A sweep; default: the newest.", autocompletion=completing.sweeps),
]
NONE = "no sweeps yet; a recipe with a `sweep:` section makes one when it is submitted"


@app.callback()
def group() -> None:
    """Look at sweeps and resume them."""


@app.command("ls", epilog="Example: lsqctl sweep ls")
def list_sweeps(ctx: typer.Context, json: Json = False, quiet: Quiet = False) -> None:
    """List sweeps, the newest first, and how their cells stand."""
    with workspace(ctx) as store:
        found = store.sweep_summaries()[::-1]
    if json:
        print_json({"sweeps": found})
    elif quiet:
        for one in found:
            print(one.name)
    elif not found:
        say(NONE)
    else:
        print_table(
            ("sweep", "cells", "standing", "created"),
            [
                (one.name, str(sum(one.counts.values())), _told(one.counts), ago(one.created_at))
                for one in found
            ],
            right=("cells",),
            give_way=("created",),
        )


@app.command(epilog="Example: lsqctl sweep status digits/resnet8-lsq")
def status(ctx: typer.Context, name: Name = None, json: Json = False, quiet: Quiet = False) -> None:
    """Show each cell of a sweep and the run that stands for it."""
    from lsqctl.api.sweeps import sweep_named

    with workspace(ctx) as store:
        found = sweep_named(store, name)
        cells = store.sweep_cells(found) if found else []
    counts = Counter(one.standing for one in cells)
    if json:
        print_json({"sweep": found, "counts": counts, "cells": cells})
        return
    if quiet:
        for one in cells:
            if one.run:
                print(one.run.id)
        return
    if not cells:
        say(NONE)
        return
    print_table(
        ("cell", "seed", "state", "Top-1 %", "run"),
        [
            (
                one.cell or "–",
                str(one.seed),
                one.standing,
                f"{one.run.top1:.2f}" if one.run and one.run.top1 is not None else "",
                one.run.id if one.run else "",
            )
            for one in cells
        ],
        right=("seed", "Top-1 %"),
    )
    note(f"{found}: {_told(counts)}")
    _say_what_failed(cells, str(found))


@app.command(epilog="Example: lsqctl sweep resume digits/resnet8-lsq --failed --from-scratch")
def resume(
    ctx: typer.Context,
    name: Name = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Failed and cancelled cells; alone, only they.")
    ] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="Cells whose run was removed; alone, only they.")
    ] = False,
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch/--from-checkpoint", help="Forget the checkpoints, or go on from them."
        ),
    ] = False,
    max_failures: Annotated[
        int | None,
        typer.Option(
            parser=natural, metavar="N", help="Stop at N failed cells from now on; 0: never."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put failed, cancelled and removed cells of a sweep back into the queue: all or none.

    Failed parents come along. A limit (submit --max-failures) counts anew what fails from now on.
    """
    from lsqctl.api import sweeps as api
    from lsqctl.store.sweeps import Resume

    both = failed == missing
    wanted = Resume(failed or both, missing or both, from_scratch, max_failures, dry_run)
    with workspace(ctx) as store:
        done = api.resume(store, settings(ctx), name, wanted)
    _print_resumed(done, dry_run=dry_run, json=json, quiet=quiet)


def _print_resumed(done: Sequence[Enqueued], *, dry_run: bool, json: bool, quiet: bool) -> None:
    if json:
        rows = [
            {
                "outcome": one.outcome,
                "id": one.run.id,
                "name": one.run.name,
                "seed": one.run.seed,
                "state": one.run.state,
            }
            for one in done
        ]
        print_json({"dry_run": dry_run, "runs": rows})
        return
    if quiet:
        for one in done:
            print(one.run.id)
        return
    if done:
        print_table(
            ("run", "seed", "outcome"),
            [(one.run.name, str(one.run.seed), one.outcome) for one in done],
            right=("seed",),
        )
    if dry_run:
        say(f"{counted(len(done), 'cell')} would be put back; nothing was changed")
    elif done:
        note(f"{counted(len(done), 'cell')} put back; next: lsqctl worker --until-empty")
    else:
        say("no cell to put back")


def _told(counts: Mapping[str, int]) -> str:
    """Return the counts in words, in the order in which a cell goes through them."""
    order = [*(state.value for state in RunState), "lost", "held", "missing"]
    return ", ".join(f"{counts[word]} {word}" for word in order if counts.get(word))


def _say_what_failed(cells: Sequence[SweepCell], name: str) -> None:
    """Say why the first cell failed (a cause before its consequences), and what to do next."""
    runs = [one.run for one in cells if one.run and one.run.state is RunState.FAILED]
    if runs:
        first = min(
            runs,
            key=lambda run: (run.reason is EndReason.PARENT, run.finished_at or run.created_at),
        )
        say(f"first failure: {first.name} ({first.id}): {first.reason}: {first.message}")
    again = {RunState.FAILED, RunState.CANCELLED}
    if any(one.run is None or one.run.state in again for one in cells):
        say(f"next: lsqctl sweep resume {name}")
