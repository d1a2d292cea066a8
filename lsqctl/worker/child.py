"""One child process and the attempt it executes, from its launch to the end of its run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lsqctl.atomic_write import inode_hint
from lsqctl.errors import LeaseLost, StoreError
from lsqctl.failpoint import failpoint
from lsqctl.ownership import make_private_dir, open_regular
from lsqctl.run import Claim, EndReason
from lsqctl.store import Store
from lsqctl.training.checkpoint_files import remove_checkpoints, temporary_dir
from lsqctl.worker.launchers import Launcher, NeverStarted, Pipes, ProcessHandle
from lsqctl.worker.messages import AttemptSpec, ExitReport, log_path, meeting_file
from lsqctl.worker.reasons import MemoryMonitor, report_from_exit_code
from lsqctl.worker.recorder import ingest_spool
from lsqctl.worker.slots import Allocation

# how long a child may take to save before it is killed for its time limit
SAVE_GRACE_SECONDS = 120.0
# how long a fork server may take to tell of a child's start, its own imports included, or end
SERVER_TIMEOUT_SECONDS = 120.0

_ASKED_TO_END = tuple(-one for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


class Child:
    """A running attempt: its process, its pipes, and what was asked of it."""

    def __init__(
        self,
        claim: Claim,
        allocation: Allocation,
        spec: AttemptSpec,
        launcher: Launcher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.claim = claim
        self.allocation = allocation
        self.spec = spec
        self.cancel_requested = False
        self.stop_requested = False
        self.timed_out = False  # over its time limit
        self.stored_end: ExitReport | None = None  # once its end is in the database
        self.renewed_at = clock()  # start of the last renewal that succeeded
        self.started_at = self.renewed_at
        self._exit_report: ExitReport | None = None
        self._server_silent_since: float | None = self.started_at
        self._memory = MemoryMonitor()
        self._pipes: list[int] = []  # our ends: of the parent-death pipe, and of its report's
        self._process = self._start(launcher)

    def _start(self, launcher: Launcher) -> ProcessHandle:
        """Launch it; one that cannot be launched has ended at once, and says why."""
        its_ends: list[int] = []
        try:
            failpoint("worker.claimed")
            for ours, its in ((1, 0), (0, 1)):
                ends = os.pipe()
                self._pipes.append(ends[ours])
                its_ends.append(ends[its])
            return self._launch(launcher, *its_ends)
        except OSError as error:
            return NeverStarted(f"{error}{inode_hint(error, Path(self.spec.run_dir))}")
        except StoreError as error:
            return NeverStarted(str(error))
        finally:
            for end in its_ends:
                os.close(end)

    @property
    def is_launched(self) -> bool:
        """Whether there is, or was, a process of it."""
        return not isinstance(self._process, NeverStarted)

    def _launch(self, launcher: Launcher, stdin_fd: int, report_fd: int) -> ProcessHandle:
        run_dir = Path(self.spec.run_dir)
        make_private_dir(run_dir)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        log = open_regular(log_path(run_dir, self.spec.attempt), flags)
        try:
            # less than a pipe holds
            os.write(self._pipes[0], self.spec.to_line().encode())
            return launcher.launch(Pipes(stdin_fd, log, report_fd), self.allocation.env)
        finally:
            os.close(log)

    def exit_code(self) -> int | None:
        """Return the exit code, or None while it runs."""
        self._memory.sample(self._process.pid)
        return self._process.poll()

    def stop(self) -> None:
        """Ask once for a save and an end; one that has ended did so by itself.

        Unless it was asked with us, as a system that stops asks all processes, and could not save.
        """
        if not self.stop_requested and self.exit_code() in (None, *_ASKED_TO_END):
            self.stop_requested = True
            self._process.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now, with all that it started; one that has ended did so by itself."""
        if self.exit_code() is None:
            self.stop_requested = True
            self._process.signal(signal.SIGKILL)

    def enforce_time_limit(self, now: float) -> None:
        """Stop it when it is over its run's time limit; kill it when saving takes too long too."""
        limit = self.claim.run.time_limit_seconds
        if limit is None or now - self.started_at < limit:
            return
        if not self.stop_requested:
            self.timed_out = True
            self.stop()
        elif self.timed_out and now - self.started_at > limit + SAVE_GRACE_SECONDS:
            self.kill()

    def is_server_hung(self, now: float) -> bool:
        """Return whether its fork server has for too long not told of its start, or of its end."""
        if not self._process.awaits_server():
            self._server_silent_since = None
        elif self._server_silent_since is None:
            self._server_silent_since = now
        since = self._server_silent_since
        return since is not None and now - since > SERVER_TIMEOUT_SECONDS

    def _timeout_message(self) -> str:
        """Say that it was over its time limit, and how it goes on."""
        run = self.claim.run
        return (
            f"over its time limit of {run.time_limit_seconds:g} s; "
            f"`lsqctl runs retry {run.id}` goes on from its checkpoint"
        )

    def exit_report(self) -> ExitReport:
        """Return why it ended, once it has: its own report, else what its exit code says."""
        if self._exit_report is None:
            report = self._read_exit_report()
            if self.timed_out and report.reason in (EndReason.PREEMPTED, EndReason.INFRA):
                report = ExitReport(EndReason.TIMEOUT, self._timeout_message())
            self._exit_report = report
        return self._exit_report

    def _read_exit_report(self) -> ExitReport:
        text = self._drain_report_pipe()
        if text.endswith("\n"):
            return ExitReport.from_line(text.splitlines()[0])  # several ranks may have said it
        if self._process.exit_cause:
            return ExitReport(EndReason.INFRA, self._process.exit_cause)
        log = log_path(Path(self.spec.run_dir), self.spec.attempt)
        return report_from_exit_code(self._process.poll() or 0, log, self._memory)

    def _drain_report_pipe(self) -> str:
        """Read its report in one piece; what it started may hold the pipe open for longer."""
        text = b""
        for report in self._pipes[1:]:
            os.set_blocking(report, False)
            with suppress(BlockingIOError), os.fdopen(report, "rb", closefd=False) as pipe:
                text = pipe.read() or b""
        for descriptor in self._pipes:
            os.close(descriptor)
        return text.decode()


def finalize_attempt(store: Store, child: Child) -> ExitReport:
    """Fail, give back or leave the run of a child that has ended; return why it ended.

    Raises StoreError while the database is away: then nothing was done.
    """
    exit_report = child.exit_report()
    failpoint("worker.child-ended")
    _remove_half_written(child.spec)
    if exit_report.reason is EndReason.COMPLETED:
        if not store.has_its_file():
            _give_back_completed(store, child)
        return exit_report
    try:
        ingest_spool(store, child.claim.lease, Path(child.spec.run_dir))
        _store_end(store, child, exit_report)
    except LeaseLost:
        return ExitReport(
            EndReason.WORKER_LOST, "another attempt owns the run; nothing was changed"
        )
    return exit_report


def _remove_half_written(spec: AttemptSpec) -> None:
    """Remove what a killed child was writing: it is this attempt's own, whoever owns the run."""
    remove_checkpoints([temporary_dir(Path(spec.run_dir), spec.fence)])
    with suppress(OSError):
        meeting_file(spec).unlink(missing_ok=True)


def _give_back_completed(store: Store, child: Child) -> None:
    """Queue a run again whose result went into a file that another has taken the place of.

    It goes on from its last checkpoint, and stores the result once more.
    """
    with suppress(LeaseLost):  # the other file has the result, or knows no such attempt
        store.queue.release(child.claim.lease)


def _store_end(store: Store, child: Child, exit_report: ExitReport) -> None:
    lease = child.claim.lease
    stopped_by_us = child.stop_requested and exit_report.reason is EndReason.INFRA
    if child.cancel_requested:
        store.queue.fail(lease, EndReason.CANCELLED, "cancelled by request")
    elif stopped_by_us or exit_report.reason is EndReason.PREEMPTED:
        failpoint("worker.before-release")
        store.queue.release(lease)
    elif exit_report.reason is EndReason.RUNG:
        failpoint("rung.before-pause")
        store.rungs.pause(lease)
    else:
        store.queue.fail(lease, exit_report.reason, exit_report.message)
