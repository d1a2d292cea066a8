"""`run` and `worker`: work the queue."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.durations import positive_duration
from lsqctl.cli.options import Compiling, Exists, Gpus, Recipes, Seeds, Sets, SkipData, Slots
from lsqctl.cli.queue import planned, print_enqueued
from lsqctl.cli.render import warn
from lsqctl.cli.state import settings, workspace
from lsqctl.errors import RunFailed, UsageError
from lsqctl.run import RunState
from lsqctl.settings import Compile, Settings, cpp_compiler

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.worker.options import Options as Working


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the top level."""
    app.command(epilog="Example: lsqctl run digits/resnet8-fp32 --set train.epochs=3")(run)
    app.command(epilog="Example: lsqctl worker --until-empty --slots 2")(worker)


def run(
    ctx: typer.Context,
    recipes: Recipes,
    sets: Sets = None,
    seeds: Seeds = None,
    if_exists: Exists = "skip",
    skip_data_check: SkipData = False,
    slots: Slots = None,
    gpus: Gpus = "auto",
    compile: Compiling = None,
) -> None:
    """Submit recipes and work the queue here, until it is empty."""
    from lsqctl.api import submit as api
    from lsqctl.worker.options import Options as Working

    here = _settings(ctx, compile)
    wanted = api.Options(tuple(sets or ()), tuple(seeds or ()), not skip_data_check)
    plan = planned(ctx, recipes, wanted)
    with workspace(ctx, create=True) as store:
        enqueued = api.submit(plan, store, if_exists=if_exists)
        print_enqueued(enqueued, plan, json=False, quiet=False)
        options = Working(until_empty=True)
        code = _work(here, store, slots=slots, gpus=gpus, name=None, options=options)
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
    compile: Compiling = None,
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

    here = _settings(ctx, compile)
    options = Working(until_empty, time_limit_seconds=time_limit, own_name=name is not None)
    with workspace(ctx, create=True) as store:
        code = _work(here, store, slots=slots, gpus=gpus, name=name, options=options)
    raise typer.Exit(code)


def _settings(ctx: typer.Context, compile: Compile | None) -> Settings:
    """Return the settings, with the flag before the variable.

    Raises UsageError when compiling is demanded and cannot work.
    """
    here = settings(ctx)
    here = replace(here, compile=compile or here.compile)
    if here.compile == "on" and shutil.which(cpp_compiler()) is None:
        raise UsageError(
            f"--compile on needs a C++ compiler, and {cpp_compiler()} is not found: install g++, "
            "or name one in CXX"
        )
    return here


def _work(
    here: Settings,
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
            here,
            identity=identity,
            places=places,
            observer=observer,
            options=options,
        )
        return supervisor.run()
