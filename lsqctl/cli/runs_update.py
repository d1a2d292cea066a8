"""`runs hold|release|priority|gpus`: change what runs next, by run or for a whole sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli import completion
from lsqctl.cli.console import note, print_json, print_table, say
from lsqctl.cli.options import Json, Quiet, open_store, stored_int
from lsqctl.errors import UsageError
from lsqctl.run import Run

if TYPE_CHECKING:
    from lsqctl.store import Store

OptionalRuns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN",
        help="Ids, unique prefixes, names, or @last.",
        autocompletion=completion.runs,
    ),
]
SweepOption = Annotated[
    str | None, typer.Option("--sweep", metavar="NAME", help="Every unfinished cell of this sweep.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `runs`."""
    app.command(epilog="Example: lsqctl runs hold @last")(hold)
    app.command(epilog="Example: lsqctl runs release --sweep digits/resnet8-lsq")(release)
    app.command(
        epilog="Example: lsqctl runs priority @last 5",
        context_settings={"ignore_unknown_options": True},  # or -5 is taken for an option
    )(priority)
    app.command(epilog="Example: lsqctl runs gpus @last 2")(gpus)


def hold(
    ctx: typer.Context,
    run_refs: OptionalRuns = None,
    sweep: SweepOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Keep queued and waiting runs from starting, until `release`.

    A running one goes on; it is held once it is requeued.
    """
    with open_store(ctx) as store:
        _update_runs(store, run_refs, sweep, store.runs.hold, json=json, quiet=quiet)


def release(
    ctx: typer.Context,
    run_refs: OptionalRuns = None,
    sweep: SweepOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let held runs be started."""
    with open_store(ctx) as store:
        _update_runs(
            store, run_refs, sweep, partial(store.runs.hold, held=False), json=json, quiet=quiet
        )


def priority(
    ctx: typer.Context,
    run_refs: OptionalRuns = None,
    number: Annotated[
        str, typer.Argument(metavar="N", help="Higher runs first; submit gives 0.")
    ] = "",
    sweep: SweepOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give runs a priority.

    The parents they wait for get at least as much.
    """
    words = [*(run_refs or ()), number]
    for word in words:
        if word.startswith("-") and not word[1:].isdigit():
            raise UsageError(f"no such option: {word}; lsqctl runs priority --help")
    if not words[-1]:
        raise UsageError("which priority? lsqctl runs priority RUN... N")
    level = stored_int(words.pop())
    with open_store(ctx) as store:
        prioritize = partial(store.runs.prioritize, priority=level)
        _update_runs(store, words, sweep, prioritize, json=json, quiet=quiet)


def gpus(
    ctx: typer.Context,
    run_refs: OptionalRuns = None,
    number: Annotated[
        str, typer.Argument(metavar="N", help="GPUs, or slots of a CPU worker.")
    ] = "",
    sweep: SweepOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train runs on another number of GPUs, to the same bits.

    From their next attempt on.
    """
    from lsqctl.services.run_control import set_gpus

    words = [*(run_refs or ()), number]
    if not words[-1].isdigit() or int(words[-1]) == 0:
        raise UsageError("how many? lsqctl runs gpus RUN... N")
    wanted = int(words.pop())
    with open_store(ctx) as store:
        change = partial(set_gpus, store, gpus=wanted)
        _update_runs(store, words, sweep, change, json=json, quiet=quiet)


def _update_runs(
    store: Store,
    run_refs: Sequence[str] | None,
    sweep: str | None,
    change: Callable[..., None],
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Change all or, where one cannot be changed, none; print them as they are then."""
    from lsqctl.services.run_control import active_runs

    run_ids = [run.id for run in active_runs(store, run_refs or (), sweep)]
    change(*run_ids)
    _print_runs([store.runs.detail(run_id).run for run_id in run_ids], json=json, quiet=quiet)


def _print_runs(runs: Sequence[Run], *, json: bool, quiet: bool) -> None:
    if json:
        print_json({"runs": runs})
    elif quiet:
        for run in runs:
            print(run.id)
    elif not runs:
        say("no cell of this sweep is unfinished; nothing was changed")
    else:
        print_table(
            ("id", "run", "seed", "state", "priority"),
            [
                (
                    run.id,
                    run.name,
                    str(run.seed),
                    run.state.value + (" (held)" if run.held else ""),
                    str(run.priority),
                )
                for run in runs
            ],
            right_aligned=("seed", "priority"),
            names=("run",),
        )
        note(f"{len(runs)} changed")
