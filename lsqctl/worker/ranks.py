"""The ranks of an attempt beside the first: forked, told what to train, watched, and explained.

Rank 0 is the attempt's child: it alone knows the database. It forks the others before anything of
torch is called; they are in its session, so that what ends its group ends them, and the kernel
kills them when it dies. Each rank counts up a pulse in memory that all share. Rank 0 looks for the
end and the pulse of the others, and they for its pulse: a rank that was stopped is found so, which
no broken connection would tell. The time is counted in the watcher's own ticks, so that a machine
that slept, or a group that was stopped and continued, is no fault.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lsqctl.errors import RankFailed
from lsqctl.run import EXIT_REASONS, EndReason, JsonObject
from lsqctl.worker.messages import AttemptSpec, ExitReport, log_path, meeting_file
from lsqctl.worker.reasons import MemoryMonitor, report_from_exit_code

EXIT_CODES = {reason: code for code, reason in EXIT_REASONS.items()}
TICK_SECONDS = 0.2
_EXPLAIN_SECONDS = 10.0  # how long a broken connection waits for its cause to be found
_CLOSE_SECONDS = 3.0  # how long the others may take to end after rank 0 is done
_HARD_END_SECONDS = 30.0  # how long rank 0 may take to end once another has failed
_PR_SET_PDEATHSIG = 1
_COUNTER = struct.Struct("Q")


def set_parent_death_signal(parent_pid: int) -> None:
    """Be killed by the kernel when the parent dies, however it dies (Linux only)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the call above took hold
        os._exit(EXIT_CODES[EndReason.PREEMPTED])


def silence_limit_seconds(lease_seconds: float) -> float:
    """Return how long a rank may show no sign of life: two leases, and 5 s at least."""
    return max(5.0, 2 * lease_seconds)


class Pulse:
    """A counter for each rank in memory that all share; a rank counts up its own while it lives."""

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size * _COUNTER.size)
        self._seen: dict[int, tuple[int, int]] = {}  # by rank: count, and our ticks since it rose

    def beat(self, rank: int) -> None:
        """Count up."""
        count = self._read(rank) + 1
        _COUNTER.pack_into(self._memory, rank * _COUNTER.size, count)

    def is_silent(self, rank: int, seconds: float) -> bool:
        """Return whether a rank that has begun has not counted for so long; asked every tick."""
        count = self._read(rank)
        last, ticks = self._seen.get(rank, (0, 0))
        ticks = ticks + 1 if count == last and count > 0 else 0
        self._seen[rank] = count, ticks
        return ticks * TICK_SECONDS > seconds

    def _read(self, rank: int) -> int:
        count: int = _COUNTER.unpack_from(self._memory, rank * _COUNTER.size)[0]
        return count


@dataclass(frozen=True, slots=True)
class AttemptInputs:
    """What rank 0 has read in the database and tells the others, once: a line of JSON."""

    recipe: JsonObject
    inputs: Mapping[str, str | Path]
    pause_epoch: int | None

    def to_line(self) -> str:
        """Return them as one line."""
        inputs = {
            key: [str(source), isinstance(source, Path)] for key, source in self.inputs.items()
        }
        return json.dumps([self.recipe, inputs, self.pause_epoch]) + "\n"

    @classmethod
    def from_line(cls, line: str) -> AttemptInputs:
        """Read what ``to_line`` wrote."""
        recipe, inputs, pause_epoch = json.loads(line)
        sources = {key: Path(text) if is_path else text for key, (text, is_path) in inputs.items()}
        return cls(recipe, sources, pause_epoch)


@dataclass(frozen=True, slots=True)
class OtherRank:
    """What a forked rank is: its number, its way to rank 0, and whose child it is."""

    rank: int
    channel: socket.socket
    pulse: Pulse
    first_pid: int

    def read_inputs(self) -> AttemptInputs | None:
        """Wait for rank 0's inputs; None when it ends before."""
        with self.channel.makefile() as lines:
            line = lines.readline()
        return AttemptInputs.from_line(line) if line else None

    def watch(self, spec: AttemptSpec, report_fd: int) -> None:
        """Show signs of life, and end the attempt, with its reason, when rank 0 shows none."""
        threading.Thread(target=self._watch, args=(spec, report_fd), daemon=True).start()

    def _watch(self, spec: AttemptSpec, report_fd: int) -> None:
        limit = silence_limit_seconds(spec.lease_seconds)
        while not self.pulse.is_silent(0, limit):
            self.pulse.beat(self.rank)
            time.sleep(TICK_SECONDS)
        message = _silence_message(0, spec.ranks, self.first_pid, limit)
        os.write(report_fd, ExitReport(EndReason.INFRA, message).to_line().encode())
        os.kill(self.first_pid, signal.SIGKILL)  # and with it, all ranks


@dataclass(slots=True)
class _Sibling:
    """Another rank as rank 0 sees it: what it said of its end, and ``end`` once it has ended.

    To leave Python takes seconds on a busy machine: what a rank said counts before that.
    """

    rank: int
    pid: int
    channel: socket.socket
    memory: MemoryMonitor = field(default_factory=MemoryMonitor)
    said: ExitReport | None = None
    end: ExitReport | None = None

    def poll(self, log: Path) -> bool:
        """Return whether it has ended by now."""
        self.memory.sample(self.pid)
        ended, status = os.waitpid(self.pid, os.WNOHANG)
        self.said = self.said or self._report()
        if ended:
            self.end = self.said or report_from_exit_code(
                os.waitstatus_to_exitcode(status), log, self.memory
            )
        return bool(ended)

    def kill(self) -> None:
        if self.end is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _report(self) -> ExitReport | None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            line = self.channel.recv(65536, socket.MSG_DONTWAIT).decode()
            return ExitReport.from_line(line) if line.endswith("\n") else None
        return None


class Siblings:
    """The other ranks, as rank 0 sees them. ``failure`` is the first end that is not in order."""

    def __init__(self, spec: AttemptSpec, others: list[_Sibling], pulse: Pulse) -> None:
        self.failure: ExitReport | None = None
        self._spec, self._others, self._pulse = spec, others, pulse
        self._failed_at = 0.0
        self._news = threading.Event()  # of a failure, or when all have ended
        self._closing = threading.Event()
        self._watcher: threading.Thread | None = None

    def send(self, inputs: AttemptInputs) -> None:
        """Tell the others what to train."""
        for old in Path(self._spec.run_dir).glob("ranks-*"):  # of an attempt that was killed
            old.unlink(missing_ok=True)
        for sibling in self._others:
            with contextlib.suppress(OSError):  # it has gone, which the watcher will tell
                sibling.channel.sendall(inputs.to_line().encode())

    def watch(self, report_fd: int) -> None:
        """Show signs of life, and look after the others, from now on."""
        self._watcher = threading.Thread(target=self._watch, args=(report_fd,), daemon=True)
        self._watcher.start()

    def explain(self, error: RankFailed) -> ExitReport:
        """Return why a rank does not answer: what the failed one said, or how it was killed."""
        self._news.wait(_EXPLAIN_SECONDS)
        ends = [sibling.end or sibling.said for sibling in self._others]
        in_order = (end for end in ends if end and end.reason is EndReason.PREEMPTED)
        return self.failure or next(in_order, ExitReport(EndReason.INFRA, str(error)))

    def close(self, *, in_order: bool) -> None:
        """Let the others end, by force after a while or at once; leave no process and no file."""
        self._closing.set()
        if self._watcher is not None:
            self._watcher.join()
        for sibling in self._others:
            sibling.channel.shutdown(socket.SHUT_WR)  # whoever waits for inputs gets none
        end_by = time.monotonic() + (_CLOSE_SECONDS if in_order else 0.0)
        while self._living() and time.monotonic() < end_by:
            time.sleep(0.02)
        for sibling in self._living():
            sibling.kill()
            os.waitpid(sibling.pid, 0)
        meeting_file(self._spec).unlink(missing_ok=True)

    def _living(self) -> list[_Sibling]:
        log = log_path(Path(self._spec.run_dir), self._spec.attempt)
        return [one for one in self._others if one.end is None and not one.poll(log)]

    def _watch(self, report_fd: int) -> None:
        while not self._closing.wait(TICK_SECONDS):
            self._pulse.beat(0)
            self._poll()
            late = self.failure and time.monotonic() - self._failed_at > _HARD_END_SECONDS
            if self.failure and late:  # this rank waits for one that is gone, in a GPU's kernel
                os.write(report_fd, self.failure.to_line().encode())
                os.killpg(0, signal.SIGKILL)

    def _poll(self) -> None:
        limit = silence_limit_seconds(self._spec.lease_seconds)
        living = self._living()
        for sibling in self._others:
            end = sibling.end or sibling.said
            if end and not end.is_in_order and end.message:
                self._fail(end.reason, f"{self._name(sibling)}: {end.message}")
        for sibling in living:
            if self._pulse.is_silent(sibling.rank, limit) and sibling.said is None:
                text = _silence_message(sibling.rank, self._spec.ranks, sibling.pid, limit)
                self._fail(EndReason.INFRA, text)
        if all(sibling.said for sibling in living):
            self._news.set()

    def _fail(self, reason: EndReason, message: str) -> None:
        """Note the first failure, and kill the others: whoever waits for them is told so."""
        if self.failure is None:
            self.failure, self._failed_at = ExitReport(reason, message), time.monotonic()
            for sibling in self._others:
                sibling.kill()
            self._news.set()

    def _name(self, sibling: _Sibling) -> str:
        return f"rank {sibling.rank} of {self._spec.ranks} (process {sibling.pid})"


def fork_ranks(spec: AttemptSpec) -> Siblings | OtherRank:
    """Fork the other ranks: return what each of them is, and to rank 0 its siblings.

    Call it before torch has computed anything, and while there is one thread.
    """
    pulse, first_pid = Pulse(spec.ranks), os.getpid()
    others: list[_Sibling] = []
    for rank in range(1, spec.ranks):
        own_end, other_end = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            set_parent_death_signal(first_pid)
            for channel in (own_end, *(other.channel for other in others)):
                channel.close()
            _close_stdin()
            return OtherRank(rank, other_end, pulse, first_pid)
        other_end.close()
        others.append(_Sibling(rank, pid, own_end))
    return Siblings(spec, others, pulse)


def _close_stdin() -> None:
    """Leave the supervisor's pipe, whose end tells rank 0 alone that it is gone."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _silence_message(rank: int, ranks: int, pid: int, seconds: float) -> str:
    return (
        f"rank {rank} of {ranks} (process {pid}) has shown no sign of life for {seconds:g} s: it "
        "was stopped, or hangs"
    )
