"""Start the process of an attempt, forked or anew; and the signals that ask a worker to stop.

Either way it has its own session, the slot's variables, the spec on standard input, its log as
standard output and error, and a pipe for its exit report.  No call here waits: a supervisor has
leases to renew.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from lsqctl.errors import LsqctlError
from lsqctl.launchers import launched_words
from lsqctl.settings import child_environment, module_command, thread_variables
from lsqctl.worker.reasons import signal_name

# SIGUSR1 is what `sbatch --signal=USR1@60` sends before the time is up
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@contextmanager
def signal_handler(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Let ``handler`` have them."""
    previous = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, old_handler in previous.items():
            signal.signal(number, old_handler)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block them, for a process started now to inherit; those for us come afterwards."""
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


@dataclass(frozen=True, slots=True)
class Pipes:
    """The descriptors of a child; the starter keeps them open and its caller closes them."""

    stdin: int
    log: int
    report: int


class ProcessHandle(Protocol):
    """A child process. ``exit_cause`` says why it ended where its exit code cannot."""

    exit_cause: str

    @property
    def pid(self) -> int | None:
        """Its pid, which is its group's too; None until it is known."""

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal's number), or None while it runs."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and all that it started."""

    def awaits_server(self) -> bool:
        """Return whether it is for the fork server to tell that it has started, or ended."""


class NeverStarted:
    """A child that could not be started, and has ended at that."""

    pid = None

    def __init__(self, exit_cause: str) -> None:
        self.exit_cause = exit_cause

    def poll(self) -> int | None:
        """Return an exit code that says nothing: ``exit_cause`` does."""
        return 1

    def signal(self, number: signal.Signals) -> None:
        """Nobody is there."""

    def awaits_server(self) -> bool:
        """Return False: it waits for nobody."""
        return False


class Launcher(Protocol):
    """How a worker starts its children."""

    def start(self) -> None:
        """Get ready, in the background."""

    def launch(self, pipes: Pipes, env: Mapping[str, str]) -> ProcessHandle:
        """Start a child; raises OSError."""

    def close(self) -> None:
        """Let go of what was made ready; children that still run are killed."""

    def abandon(self, reason: str) -> None:
        """As ``close``, for a fault of what was made ready: its children give the reason."""


class SubprocessHandle:
    """A Python of its own, which imports torch first."""

    exit_cause = ""

    def __init__(self, pipes: Pipes, env: Mapping[str, str], words: Sequence[str]) -> None:
        self._popen = subprocess.Popen(
            words,
            stdin=pipes.stdin,
            stdout=pipes.log,
            stderr=pipes.log,
            pass_fds=(pipes.report,),
            env=child_environment({**env, "PYTHONUNBUFFERED": "1"}),
            start_new_session=True,  # a terminal's Ctrl-C reaches the supervisor alone
        )

    @property
    def pid(self) -> int | None:
        """Its pid, which is its group's too."""
        return self._popen.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._popen.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and all that it started."""
        if self.poll() is None:
            signal_group(self._popen.pid, number)

    def awaits_server(self) -> bool:
        """Return False: there is none."""
        return False


class SubprocessLauncher:
    """Starts a command for each attempt, by a launcher: where there is no fork server."""

    def __init__(self, name: str) -> None:
        self._name = name

    def start(self) -> None:
        """Nothing can be made ready."""

    def launch(self, pipes: Pipes, env: Mapping[str, str]) -> SubprocessHandle:
        """Start a child; raises OSError, also for a launcher that makes no command."""
        command = (*module_command("lsqctl.worker.execute"), str(pipes.report))
        try:
            words = launched_words(self._name, command, env)
        except LsqctlError as error:
            raise OSError(str(error)) from None
        return SubprocessHandle(pipes, env, words)

    def close(self) -> None:
        """Nothing was made ready."""

    def abandon(self, reason: str) -> None:
        """Nothing was made ready."""


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process group that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


class ForkedProcessHandle:
    """A child forked by the fork server, once that has its imports; known by its status pipe.

    The child writes ``pid N`` there and the server ``exit CODE``; an end of file before that says
    that the server has died, and the kernel has killed the child for it.
    """

    def __init__(self, status_fd: int, server: _ForkServerHandle) -> None:
        self.exit_cause = ""
        self._status_fd = status_fd
        self._server = server
        self.pid: int | None = None  # its group's too
        self._exit_code: int | None = None
        self._pending_signals: list[signal.Signals] = []
        self._partial_line = b""

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self._exit_code is None:
            with contextlib.suppress(BlockingIOError):
                self._read_status()
        return self._exit_code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and all that it started, as soon as it lives."""
        self._pending_signals.append(number)
        if self.poll() is None:
            self._send_pending_signals()

    def awaits_server(self) -> bool:
        """Return whether it has not been started, or has ended, and the server has not said so."""
        return self.poll() is None and (self.pid is None or is_zombie(self.pid))

    def _read_status(self) -> None:
        while self._exit_code is None:
            chunk = os.read(self._status_fd, 4096)
            if not chunk:
                self._on_server_death()
            *lines, self._partial_line = (self._partial_line + chunk).split(b"\n")
            for line in lines:
                self._on_status_line(line.decode())

    def _on_status_line(self, line: str) -> None:
        key, number = line.split()
        if key == "pid":
            self.pid = int(number)
            self._send_pending_signals()
        else:
            self._set_exit_code(int(number))

    def _send_pending_signals(self) -> None:
        if self.pid is not None:
            for number in self._pending_signals:
                signal_group(self.pid, number)
            self._pending_signals.clear()

    def _on_server_death(self) -> None:
        self.exit_cause = f"the fork server ended: {self._server.exit_cause()}"
        if self.pid is not None:
            signal_group(self.pid, signal.SIGKILL)
        self._set_exit_code(-signal.SIGKILL)

    def _set_exit_code(self, code: int) -> None:
        self._exit_code = code
        os.close(self._status_fd)


def is_zombie(pid: int) -> bool:
    """Return whether a process has ended and its parent has not asked how."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] == "Z"


class ForkServerLauncher:
    """Forks children from a fork server, and starts that again after it has died."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._server: _ForkServerHandle | None = None

    def start(self) -> None:
        """Let a fork server do its imports."""
        if self._server is None or not self._server.is_alive:
            self.close()
            self._server = _ForkServerHandle(self._threads)

    def launch(self, pipes: Pipes, env: Mapping[str, str]) -> ForkedProcessHandle:
        """Ask for a child; raises OSError."""
        self.start()
        assert self._server is not None
        return self._server.fork(pipes, env)

    def close(self) -> None:
        """End the fork server, and with it every child that it has."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def abandon(self, reason: str) -> None:
        """End a fork server that does not answer, and with it every child that it has."""
        if self._server is not None:
            self._server.give_exit_cause(reason)
        self.close()


class _ForkServerHandle:
    """One fork server, seen from its supervisor."""

    def __init__(self, threads: int) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (until close)
        self._exit_cause = ""
        self._channel, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        with server_end, signals_blocked():  # a job's signals are the supervisor's to act upon
            self._popen = subprocess.Popen(
                [
                    *module_command("lsqctl.worker.fork_server"),
                    *(str(server_end.fileno()), str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(server_end.fileno(),),
                env=child_environment(_fork_server_variables(threads)),
                start_new_session=True,
            )

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def fork(self, pipes: Pipes, env: Mapping[str, str]) -> ForkedProcessHandle:
        status_fd, child_end = os.pipe()
        os.set_blocking(status_fd, False)
        message = json.dumps(dict(env)).encode()
        try:
            descriptors = [pipes.stdin, pipes.log, pipes.report, child_end]
            socket.send_fds(self._channel, [message], descriptors)
        except OSError:
            os.close(status_fd)
            raise
        finally:
            os.close(child_end)
        return ForkedProcessHandle(status_fd, self)

    def exit_cause(self) -> str:
        """Say in a few words how it ended."""
        if not self._exit_cause:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(1)
            self._exit_cause = self._describe_exit(self._popen.returncode)
        return self._exit_cause

    def give_exit_cause(self, cause: str) -> None:
        self._exit_cause = cause

    def _describe_exit(self, code: int | None) -> str:
        if code is not None and code < 0:
            return f"killed by {signal_name(-code)}"
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {code}"

    def close(self) -> None:
        self._channel.close()
        self._popen.kill()
        self._popen.wait()
        self.exit_cause()
        self._output.close()


def _fork_server_variables(threads: int) -> dict[str, str]:
    """What a server's libraries read when they are loaded; a child sets the rest for itself."""
    return thread_variables(threads) | {
        "OPENBLAS_NUM_THREADS": "1",  # else NumPy's starts threads on import: no safe fork
        "PYTHONUNBUFFERED": "1",
    }


def make_launcher(use_fork_server: bool, threads: int, name: str = "") -> Launcher:
    """Return how children are started here; ``threads`` is what most of them will use.

    ``name`` is that of a launcher; without one they are forked where they can be.
    """
    # the chain "supervisor dies, server dies, child dies" needs Linux's PR_SET_PDEATHSIG
    return (
        ForkServerLauncher(threads)
        if use_fork_server and not name and sys.platform == "linux"
        else SubprocessLauncher(name or "python")
    )
