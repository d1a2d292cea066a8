"""Ask a warmed parent for children, and follow each through a pipe of its own.

The parent (``lsqctl.worker.warm``) is started in the background and takes requests from the first
moment, to answer them once it has its imports; no call here waits for it.
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
from collections.abc import Mapping

from lsqctl.settings import child_environment
from lsqctl.worker.launch import ColdLauncher, Launcher, Pipes, signal_group
from lsqctl.worker.signals import held_back


class WarmProcess:
    """A child forked by a warmed parent, once that has its imports; known by its status pipe.

    The child writes ``pid N`` there and its parent ``exit CODE``; an end of file before that says
    that the parent has died, and the kernel has killed the child for it.
    """

    def __init__(self, status: int, parent: _Parent) -> None:
        self.obituary = ""
        self._status = status
        self._parent = parent
        self.pid: int | None = None  # its group's too
        self._code: int | None = None
        self._unsent: list[signal.Signals] = []
        self._text = b""

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self._code is None:
            with contextlib.suppress(BlockingIOError):
                self._read()
        return self._code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and all that it started, as soon as it lives."""
        self._unsent.append(number)
        if self.poll() is None:
            self._send()

    def _read(self) -> None:
        while self._code is None:
            piece = os.read(self._status, 4096)
            if not piece:
                self._orphaned()
            *lines, self._text = (self._text + piece).split(b"\n")
            for line in lines:
                self._hear(line.decode())

    def _hear(self, line: str) -> None:
        word, number = line.split()
        if word == "pid":
            self.pid = int(number)
            self._send()
        else:
            self._end(int(number))

    def _send(self) -> None:
        if self.pid is not None:
            for number in self._unsent:
                signal_group(self.pid, number)
            self._unsent.clear()

    def _orphaned(self) -> None:
        self.obituary = f"the warmed parent process ended: {self._parent.obituary()}"
        if self.pid is not None:
            signal_group(self.pid, signal.SIGKILL)
        self._end(-signal.SIGKILL)

    def _end(self, code: int) -> None:
        self._code = code
        os.close(self._status)


class WarmLauncher:
    """Forks children from a warmed parent, and starts that again after it has died."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._parent: _Parent | None = None

    def start(self) -> None:
        """Let a parent warm up."""
        if self._parent is None or not self._parent.lives:
            self.close()
            self._parent = _Parent(self._threads)

    def launch(self, pipes: Pipes, environment: Mapping[str, str]) -> WarmProcess:
        """Ask for a child; raises OSError."""
        self.start()
        assert self._parent is not None
        return self._parent.fork(pipes, environment)

    def close(self) -> None:
        """End the parent, and with it every child that it has."""
        if self._parent is not None:
            self._parent.close()
            self._parent = None


class _Parent:
    """One warmed parent process, seen from its supervisor."""

    def __init__(self, threads: int) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (until close)
        self._obituary = ""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        with theirs, held_back():  # a job's signals are the supervisor's to act upon
            self._popen = subprocess.Popen(
                [
                    *(sys.executable, "-m", "lsqctl.worker.warm"),
                    *(str(theirs.fileno()), str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=(theirs.fileno(),),
                env=child_environment(_parent_environment(threads)),
                start_new_session=True,
            )

    @property
    def lives(self) -> bool:
        return self._popen.poll() is None

    def fork(self, pipes: Pipes, environment: Mapping[str, str]) -> WarmProcess:
        status, theirs = os.pipe()
        os.set_blocking(status, False)
        message = json.dumps(dict(environment)).encode()
        try:
            descriptors = [pipes.order, pipes.log, pipes.words, theirs]
            socket.send_fds(self._channel, [message], descriptors)
        except OSError:
            os.close(status)
            raise
        finally:
            os.close(theirs)
        return WarmProcess(status, self)

    def obituary(self) -> str:
        """Say in a few words how it ended."""
        if not self._obituary:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(1)
            self._obituary = self._cause(self._popen.returncode)
        return self._obituary

    def _cause(self, code: int | None) -> str:
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {code}"

    def close(self) -> None:
        self._channel.close()
        self._popen.kill()
        self._popen.wait()
        self.obituary()
        self._errors.close()


def _parent_environment(threads: int) -> dict[str, str]:
    """What a parent's libraries read when they are loaded; a child sets the rest for itself."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",  # else NumPy's starts threads on import: no safe fork
        "PYTHONUNBUFFERED": "1",
    }


def make_launcher(warm: bool, threads: int) -> Launcher:
    """Return how children are started here; ``threads`` is what most of them will use."""
    # the chain "supervisor dies, parent dies, child dies" needs Linux's PR_SET_PDEATHSIG
    return WarmLauncher(threads) if warm and sys.platform == "linux" else ColdLauncher()
