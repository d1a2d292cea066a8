"""`run` and `worker`: work the queue, whether or not anybody still reads what they print."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, TextIO, TypedDict, cast

import typer

from lsqctl.cli.console import say, warn
from lsqctl.cli.options import (
    CompileOption,
    Grids,
    IfExistsOption,
    Overrides,
    RecipeName,
    Recipes,
    Seeds,
    SkipDataCheck,
    Slots,
    Tags,
    TensorBoard,
    WorkerGpus,
    get_settings,
    open_store,
    positive_duration_seconds,
    positive_int,
)
from lsqctl.cli.submit import print_enqueued
from lsqctl.errors import RunFailed, UsageError
from lsqctl.run import EndReason, Run
from lsqctl.settings import CompileMode, Settings, cpp_compiler
from lsqctl.text import pluralize

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.worker.slots import SlotAllocator
    from lsqctl.worker.supervisor import WorkerOptions as Working
    from lsqctl.worker.workspace_file import OnEnd


def _worker_name(text: str) -> str:
    """Parse what lists can show as a name."""
    if not text.strip() or not text.isprintable():
        raise typer.BadParameter(f"must have a letter, and none that cannot be seen, got {text!r}")
    return text


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the top level."""
    app.command(epilog="Example: lsqctl run digits/resnet8-fp32 --set train.epochs=3")(run)
    app.command(epilog="Example: lsqctl worker --until-empty --slots 2")(worker)


def run(
    ctx: typer.Context,
    recipes: Recipes,
    overrides: Overrides = None,
    grids: Grids = None,
    seeds: Seeds = None,
    name: RecipeName = None,
    tags: Tags = None,
    if_exists: IfExistsOption = "skip",
    skip_data_check: SkipDataCheck = False,
    slots: Slots = None,
    gpus: WorkerGpus = "auto",
    compile: CompileOption = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Submit recipes and work the queue here, until it is empty."""
    from lsqctl.services import submit as api
    from lsqctl.services.submit_planner import SubmitOptions
    from lsqctl.worker.supervisor import WorkerOptions as Working

    settings = _settings_with_compile(ctx, compile)
    submit_options = SubmitOptions(
        overrides=tuple(overrides or ()),
        seeds=tuple(seeds or ()),
        check_data=not skip_data_check,
        grids=tuple(grids or ()),
        tags=tuple(tags or ()),
        name=name,
    )
    plan = api.plan_in_workspace(recipes, settings, submit_options)
    with open_store(ctx, create=True) as store:
        enqueued = api.submit(plan, store, if_exists=if_exists)
        print_enqueued(enqueued, plan, json=False, quiet=False, worked_here=True)
        options = Working(until_empty=True, **_beside_runs(settings, tensorboard=tensorboard))
        code = _work_queue(
            settings, store, slots=slots, gpu_choice=gpus, name=None, options=options
        )
        finished = [store.runs.detail(item.run.id).run for item in enqueued]
    if code:
        if any(not run.finished_at for run in finished):
            say("the same command goes on with them, or `lsqctl worker --until-empty`")
        raise typer.Exit(code)
    _check_all_succeeded(finished)


def _check_all_succeeded(runs: Sequence[Run]) -> None:
    """Raise RunFailed for those that did not end well."""
    if unsuccessful := [run for run in runs if not run.ended_well]:
        unsuccessful.sort(key=lambda run: run.reason is EndReason.PARENT)  # causes first
        run_list = ", ".join(f"{run.name} ({run.id}) {run.state}" for run in unsuccessful[:5])
        raise RunFailed(f"{len(unsuccessful)} of {len(runs)} runs did not succeed: {run_list}")


def worker(
    ctx: typer.Context,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when no run is left but held ones.")
    ] = False,
    slots: Slots = None,
    gpus: WorkerGpus = "auto",
    compile: CompileOption = None,
    tensorboard: TensorBoard = False,
    launcher: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What starts each attempt: python, nice, a plugin's."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            parser=_worker_name, help="What lists call this worker; no other may be called so."
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            parser=positive_duration_seconds,
            metavar="TIME",
            help="Then save every run, requeue it and end: 90m, 2h, 1h30m, or seconds.",
        ),
    ] = None,
    idle_limit: Annotated[
        float | None,
        typer.Option(
            parser=positive_duration_seconds,
            metavar="TIME",
            help="End after so long without a run; SIGUSR1 then ends it with 0.",
        ),
    ] = None,
    only_gpus: Annotated[
        int | None,
        typer.Option(parser=positive_int, metavar="N", help="Take runs alone that reserve N GPUs."),
    ] = None,
) -> None:
    """Take runs from the queue, each in a process of its own.

    Ctrl-C, SIGTERM or SIGUSR1 once: save every run and requeue it.  Twice: stop at once.
    """
    from lsqctl.worker.supervisor import WorkerOptions as Working

    settings = _settings_with_compile(ctx, compile)
    options = Working(
        until_empty,
        time_limit_seconds=time_limit,
        exclusive_name=name is not None,
        idle_limit_seconds=idle_limit,
        only_gpus=only_gpus,
        **_beside_runs(settings, tensorboard=tensorboard, launcher=launcher),
    )
    with open_store(ctx, create=True, wait=True) as store:
        code = _work_queue(
            settings, store, slots=slots, gpu_choice=gpus, name=name, options=options
        )
    raise typer.Exit(code)


class _BesideRuns(TypedDict):
    trackers: tuple[str, ...]
    launcher: str
    on_end: OnEnd


def _beside_runs(
    settings: Settings, *, tensorboard: bool, launcher: str | None = None
) -> _BesideRuns:
    """Return what the workspace's file says; a flag adds a tracker, or names another launcher."""
    from lsqctl.launchers import LAUNCHERS
    from lsqctl.worker.workspace_file import read_workspace_file

    if launcher:
        LAUNCHERS.find(launcher)
    wanted = read_workspace_file(settings.home)
    trackers = (*wanted.trackers, *(("tensorboard",) if tensorboard else ()))
    return {
        "trackers": tuple(dict.fromkeys(trackers)),
        "launcher": launcher or wanted.launcher,
        "on_end": wanted.on_end,
    }


def _settings_with_compile(ctx: typer.Context, compile: CompileMode | None) -> Settings:
    """Return the settings, with the flag before the variable.

    Raises UsageError when compiling is demanded and cannot work.
    """
    settings = get_settings(ctx)
    settings = replace(settings, compile=compile or settings.compile)
    if settings.compile == "on" and shutil.which(cpp_compiler()) is None:
        raise UsageError(
            f"--compile on needs a C++ compiler, and {cpp_compiler()} is not found: install g++, "
            "or name one in CXX"
        )
    return settings


def _work_queue(
    settings: Settings,
    store: Store,
    *,
    slots: int | None,
    gpu_choice: str,
    name: str | None,
    options: Working,
) -> int:
    from lsqctl.cli.progress import observe_worker
    from lsqctl.worker.identity import this_worker
    from lsqctl.worker.supervisor import Supervisor

    slot_allocator, device = _allocate_slots(slots, gpu_choice)
    ranks = slot_allocator.pool.most_ranks
    if options.only_gpus is not None and options.only_gpus > ranks:
        room = pluralize(ranks, "GPU" if device == "cuda" else "slot")
        raise UsageError(f"--only-gpus {options.only_gpus}: this worker has {room}")
    identity = this_worker(name, len(slot_allocator.pool.slots), device)
    with ignore_broken_pipes(), observe_worker(store) as observer:
        supervisor = Supervisor(
            store,
            settings,
            identity=identity,
            slots=slot_allocator,
            observer=observer,
            options=options,
        )
        return supervisor.run()


def _allocate_slots(
    slots: int | None, gpu_choice: str
) -> tuple[SlotAllocator, Literal["cpu", "cuda"]]:
    """Return the slots that a worker has, of its GPUs or of the CPU, and on which device."""
    from lsqctl.worker.gpus import open_probe, select_with_health
    from lsqctl.worker.slots import SlotAllocator, make_slots

    gpu_probe = open_probe()
    gpus, gpu_health = select_with_health(gpu_choice, gpu_probe)
    slot_allocator = SlotAllocator(make_slots(gpus, slots), gpu_health if gpus else None)
    if gpus and gpu_choice == "auto" and gpu_probe.unavailable_reason:
        warn(
            "a GPU that others use cannot be told from an idle one "
            f"({gpu_probe.unavailable_reason})"
        )
    return slot_allocator, "cuda" if gpus else "cpu"


class _BrokenPipeSafeStream:
    """A text stream that, once its reader is gone, writes to nowhere instead of raising."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._redirect_to_devnull()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._redirect_to_devnull()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def _redirect_to_devnull(self) -> None:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self._stream.fileno())
        os.close(devnull)


@contextmanager
def ignore_broken_pipes() -> Iterator[None]:
    """Let nothing that is said on stdout or stderr end what runs inside."""
    original = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _BrokenPipeSafeStream(stream)) for stream in original)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = original
