"""The child: execute one attempt, record its events under the fence, and end with a plain reason.

``execute`` reads its spec from standard input, in a child forked from the fork server or in
``python -m lsqctl.worker.execute REPORT``.  It iterates
``training.finetune``, which knows no database, and writes what that yields.  It never decides what
becomes of the run when it fails: it says why (exit report, exit code) and the supervisor acts.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from lsqctl.discovery import use_workspace
from lsqctl.errors import LsqctlError, RankFailed, UnusableDatabase
from lsqctl.events import LogMessage, Paused, TrainingEvent
from lsqctl.failpoint import failpoint
from lsqctl.run import EndReason, JsonObject, RunDetail
from lsqctl.worker.messages import AttemptSpec, ExitReport, log_line, meeting_file
from lsqctl.worker.ranks import (
    EXIT_CODES,
    AttemptInputs,
    OtherRank,
    Siblings,
    fork_ranks,
    set_parent_death_signal,
)
from lsqctl.worker.reasons import annotate_oom, end_reason_of, error_message

if TYPE_CHECKING:
    from lsqctl.recipe import Recipe
    from lsqctl.store import Store
    from lsqctl.training.ranks import World
    from lsqctl.training.runtime import ExecutionContext

_ORPHAN_GRACE_SECONDS = 20.0
_STDIN = 0


class StopFlag:
    """Becomes true when the attempt should save its state and end."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self) -> bool:
        """Return whether to stop; asked at every step."""
        return self._event.is_set()

    def set(self) -> None:
        """Ask for the stop, from a signal handler or a thread."""
        self._event.set()

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Save and end.  A job's signal may come from its scheduler and from the supervisor."""
        self._event.set()


def main() -> int:
    """Execute in a Python of its own; the supervisor is the parent."""
    return execute(int(sys.argv[1]), None)


def execute(report_fd: int, parent_pid: int | None) -> int:
    """Execute the spec on standard input; return the exit code that names the end reason.

    ``parent_pid`` is that of the process that forked this one, None for the supervisor's.
    """
    spec = AttemptSpec.from_line(_read_line(_STDIN))
    stop = StopFlag()
    set_parent_death_signal(parent_pid or spec.supervisor_pid)
    signal.signal(signal.SIGTERM, stop.on_signal)
    for ignored in (signal.SIGINT, signal.SIGUSR1):  # a terminal's, Slurm's: the supervisor's part
        signal.signal(ignored, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # blocked until here by the fork server
    faulthandler.enable()  # a crash in native code leaves its Python stack in the log
    ranks = fork_ranks(spec) if spec.ranks > 1 else None
    if isinstance(ranks, OtherRank):
        return _execute_other_rank(spec, stop, ranks, report_fd)
    threading.Thread(target=_watch_parent_death_pipe, args=(stop,), daemon=True).start()
    if ranks is None:
        exit_report = run_attempt(lambda: _train_and_record(spec, stop), stop)
    else:
        exit_report = _execute_first_rank(spec, stop, ranks, report_fd)
    if exit_report.message:
        log_line(f"{exit_report.reason}: {exit_report.message}")
    _send_report(exit_report, report_fd)
    return EXIT_CODES.get(exit_report.reason, 1)


def _execute_first_rank(
    spec: AttemptSpec, stop: StopFlag, siblings: Siblings, report_fd: int
) -> ExitReport:
    """Execute an attempt with its other ranks, and leave none of them behind."""

    def train() -> EndReason:
        importlib.import_module("lsqctl.training.finetuning")  # which may hold the GIL for long
        siblings.watch(report_fd)
        return _train_and_record(spec, stop, siblings)

    exit_report: ExitReport | None = None
    try:
        exit_report = run_attempt(train, stop, siblings)
        return exit_report
    finally:
        siblings.close(in_order=exit_report is not None and exit_report.is_in_order)


def _execute_other_rank(spec: AttemptSpec, stop: StopFlag, own: OtherRank, report_fd: int) -> int:
    """Train along with rank 0, tell it how that ended, and return the exit code."""
    exit_report = run_attempt(lambda: _train_along(spec, stop, own, report_fd), stop)
    if exit_report.message:
        log_line(f"rank {own.rank}: {exit_report.reason}: {exit_report.message}")
    with contextlib.suppress(OSError):
        own.channel.sendall(exit_report.to_line().encode())
    return EXIT_CODES.get(exit_report.reason, 1)


def run_attempt(
    train: Callable[[], EndReason], stop: StopFlag, siblings: Siblings | None = None
) -> ExitReport:
    """Execute one attempt and return how it ended; nothing that torch raises gets past here."""
    try:
        reason = train()
    except Exception as error:  # here and of qonnx alone: a run may fail in any way that torch can
        if isinstance(error, RankFailed) and error.is_lost and siblings is not None:
            return siblings.explain(error)
        reason = end_reason_of(error, stopped=stop())
        if reason is EndReason.CODE:
            with contextlib.suppress(OSError):  # a log that takes no more
                traceback.print_exc()
        message = error_message(error, reason)
        return ExitReport(reason, message, ends_worker=isinstance(error, UnusableDatabase))
    return ExitReport(reason, "")


def _train_along(spec: AttemptSpec, stop: StopFlag, own: OtherRank, report_fd: int) -> EndReason:
    """Run the training as one rank more, which records nothing; return how it ended."""
    from lsqctl.recipe import load_stored
    from lsqctl.training import finetune

    own.watch(spec, report_fd)
    shared = own.read_inputs()
    if shared is None:
        return EndReason.PREEMPTED
    use_workspace(Path(spec.run_dir).parent.parent)
    recipe, device = load_stored(shared.recipe), _device_of_rank(spec, own.rank)
    try:
        with annotate_oom(recipe, device):
            context = replace(
                _base_context(spec, stop, shared.inputs),
                device=device,
                pause_epoch=shared.pause_epoch,
                world=_meet(spec, own.rank),
            )
            return _run_to_end(finetune(recipe, context))
    except RankFailed:  # another rank has failed, and rank 0 finds out why
        return EndReason.INFRA


def _run_to_end(
    events: Iterable[TrainingEvent], *listeners: Callable[[TrainingEvent], None]
) -> EndReason:
    """Run a training to its end, tell each of its events, and return how it ended."""
    reason = EndReason.COMPLETED
    for event in events:
        for listener in listeners:
            listener(event)
        if isinstance(event, Paused):
            reason = EndReason.RUNG
    return reason


def _device_of_rank(spec: AttemptSpec, rank: int) -> str:
    return spec.device if spec.device == "cpu" else f"cuda:{rank}"


def _train_and_record(
    spec: AttemptSpec, stop: StopFlag, siblings: Siblings | None = None
) -> EndReason:
    """Run the training, write each event that it yields, and return how it ended."""
    from lsqctl.recipe import check_ranks, load_stored
    from lsqctl.training import finetune
    from lsqctl.worker.recorder import Recorder
    from lsqctl.worker.tracking import Tracking

    failpoint("child.started")
    use_workspace(Path(spec.run_dir).parent.parent)
    store, detail, inputs = _open_attempt(spec, stop)
    try:
        context = _execution_context(spec, stop, inputs, store)
        recipe = load_stored(detail.recipe)
        check_ranks(recipe, spec.ranks)
        if siblings is not None:
            siblings.send(AttemptInputs(detail.recipe, inputs, context.pause_epoch))
            context = replace(context, world=_meet(spec, rank=0))
        with (
            annotate_oom(recipe, spec.device),
            Recorder(store, spec.lease, run_dir=context.run_dir, stop=stop) as recorder,
            Tracking(spec.trackers, detail, context.run_dir) as tracking,
        ):
            for message in code_change_messages(detail.provenance, recipe):
                recorder.record(message)
            return _run_to_end(finetune(recipe, context), recorder.record, tracking.record)
    finally:
        store.close()


def _meet(spec: AttemptSpec, rank: int) -> World:
    from lsqctl.training.ranks import Ranks

    return Ranks(rank, spec.ranks, meeting_file(spec), spec.device)


def _open_attempt(
    spec: AttemptSpec, stop: StopFlag
) -> tuple[Store, RunDetail, dict[str, str | Path]]:
    """Return the store, the run and its inputs, once the database holds what the attempt is.

    A short wait for each try: the recorder retries by itself and must not hold up training.
    """
    from lsqctl.store import open_store
    from lsqctl.worker.retry import retry_store

    lease = spec.lease_seconds
    environment = attempt_environment(spec)

    def open_once() -> tuple[Store, RunDetail, dict[str, str | Path]]:
        busy_seconds = min(2.0, lease / 3)
        store = open_store(
            spec.db_url, lease_seconds=lease, migrate=False, busy_seconds=busy_seconds
        )
        try:
            return store, *_record_beginning(store, spec, environment)
        except LsqctlError:
            store.close()
            raise

    opened = retry_store(open_once, lease_seconds=lease, stop=stop)
    failpoint("child.environment-stored")
    return opened


def _record_beginning(
    store: Store, spec: AttemptSpec, environment: dict[str, object]
) -> tuple[RunDetail, dict[str, str | Path]]:
    """Store what the attempt is: its environment, its inputs, and where its run's folder lies."""
    from lsqctl.worker.inputs import input_digests, resolve_inputs

    run_dir = Path(spec.run_dir)
    detail = store.runs.detail(spec.run_id)
    inputs = resolve_inputs(detail, store, Path(spec.data_dir), run_dir.parent)
    failpoint("child.before-environment")
    store.checkpoints.relocate(spec.lease, run_dir)
    digests = input_digests(inputs, detail)
    store.queue.record_environment(spec.lease, environment | {"inputs": digests})
    return detail, inputs


def _execution_context(
    spec: AttemptSpec, stop: StopFlag, inputs: dict[str, str | Path], store: Store
) -> ExecutionContext:
    from lsqctl.worker.retry import retry_store

    def with_lease(work: Callable[[], None]) -> None:
        leased_work = partial(store.queue.run_with_lease, spec.lease, work)
        retry_store(leased_work, lease_seconds=spec.lease_seconds, stop=stop)

    return replace(
        _base_context(spec, stop, inputs),
        recorded_checkpoints={
            checkpoint.sha256 for checkpoint in store.checkpoints.list(spec.run_id)
        },
        with_lease=with_lease,
        pause_epoch=store.rungs.next_rung(spec.run_id),
    )


def _base_context(
    spec: AttemptSpec, stop: StopFlag, inputs: Mapping[str, str | Path]
) -> ExecutionContext:
    """Return what every rank of an attempt trains with."""
    from lsqctl.training.runtime import ExecutionContext

    return ExecutionContext(
        run_dir=Path(spec.run_dir),
        data_dir=Path(spec.data_dir),
        device=spec.device,
        threads=spec.threads,
        fence=spec.fence,
        inputs=inputs,
        stop=stop,
        compile=spec.compile,
    )


def _watch_parent_death_pipe(stop: StopFlag) -> None:
    """Stop when the supervisor closes the pipe; end by force when that takes too long.

    By ``os.read``: a thread that waits in ``sys.stdin`` holds its lock, and a process forked
    meanwhile (a data loader's) would wait for that lock for ever.
    """
    while os.read(_STDIN, 4096):
        pass
    stop.set()
    time.sleep(_ORPHAN_GRACE_SECONDS)
    os._exit(EXIT_CODES[EndReason.PREEMPTED])


def _read_line(fd: int) -> str:
    """Return the first line, read without the buffer of ``sys.stdin``."""
    data = b""
    while not data.endswith(b"\n") and (chunk := os.read(fd, 65536)):
        data += chunk
    return data.decode()


def _send_report(exit_report: ExitReport, report_fd: int) -> None:
    """Send the exit report to the supervisor."""
    with os.fdopen(report_fd, "w") as stream:
        stream.write(exit_report.to_line())


def attempt_environment(spec: AttemptSpec) -> dict[str, object]:
    """Return what must stay the same for an exact resume, and what a reader wants to know."""
    import platform

    import torch

    from lsqctl import __version__
    from lsqctl.bundled import code_sha256
    from lsqctl.settings import recorded_variables

    return {
        "device": spec.device.partition(":")[0],
        "threads": spec.threads,
        "ranks": spec.ranks,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "lsqctl": __version__,
        "code_sha256": code_sha256(),
        "variables": recorded_variables(),
    }


def code_change_messages(provenance: JsonObject, recipe: Recipe) -> list[LogMessage]:
    """Return a message for each code, lsqctl's or a plugin's, that is not as it was at submit."""
    from lsqctl.bundled import code_sha256
    from lsqctl.recipe import plugins_of

    pairs = {"lsqctl": (provenance.get("code_sha256"), code_sha256())}
    for name, plugin in plugins_of(recipe).items():
        submitted = provenance.get("plugins", {}).get(name, {}).get("sha256")
        pairs[f"the plugin of {name}"] = submitted, plugin.sha256()
    return [
        LogMessage(
            f"the code of {whose} has changed since the run was submitted "
            f"({submitted[:12]} → {current[:12]})"
        )
        for whose, (submitted, current) in pairs.items()
        if submitted not in (None, current)
    ]


if __name__ == "__main__":
    sys.exit(main())
