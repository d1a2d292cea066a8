"""Start the process of an attempt: what every way has in common, and the plain way.

Either way it has its own session, the slot's variables, the spec on standard input, its log as
standard output and error, and a pipe for its exit report.  No call here waits: a supervisor has
leases to renew.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from lsqctl.settings import child_environment


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


class Launcher(Protocol):
    """How a worker starts its children."""

    def start(self) -> None:
        """Get ready, in the background."""

    def launch(self, pipes: Pipes, env: Mapping[str, str]) -> ProcessHandle:
        """Start a child; raises OSError."""

    def close(self) -> None:
        """Let go of what was made ready; children that still run are killed."""


class SubprocessHandle:
    """A Python of its own, which imports torch first."""

    exit_cause = ""

    def __init__(self, pipes: Pipes, env: Mapping[str, str]) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "lsqctl.worker.execute", str(pipes.report)],
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


class SubprocessLauncher:
    """Starts a Python for each attempt: where there is no fork server."""

    def start(self) -> None:
        """Nothing can be made ready."""

    def launch(self, pipes: Pipes, env: Mapping[str, str]) -> SubprocessHandle:
        """Start a child; raises OSError."""
        return SubprocessHandle(pipes, env)

    def close(self) -> None:
        """Nothing was made ready."""


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process group that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
