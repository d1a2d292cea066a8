"""The fork server: torch imported once, and a child forked from it for each attempt.

``python -m lsqctl.worker.fork_server CHANNEL SUPERVISOR`` imports what a trainer needs, then waits
on a Unix socket for requests: variables, and four descriptors (stdin, log, exit report, status).
A forked child returns from ``serve`` with its request and goes on as a freshly started
``lsqctl.worker.execute`` would; only its imports are done.

Forking is safe because nothing has happened here but imports: one thread, no parallel region, CUDA
untouched.  The standard library's forkserver was not taken: starting a process blocks its caller
until the imports are done (a supervisor must go on renewing leases), it unpickles what it runs, and
it imports the caller's ``__main__`` again.  This server reads no database and knows no run.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass, field

from lsqctl.bundled import code_sha256
from lsqctl.settings import update_environment
from lsqctl.worker.execute import execute
from lsqctl.worker.ranks import set_parent_death_signal

# Measured: all that a digits run imports between its start and its first step (bench/first_step).
PRELOADED_MODULES = (
    "torch._dynamo",  # the first optimizer step asks for it: 0.8 s
    "torch._inductor.config",  # so does torch.use_deterministic_algorithms
    "torch.utils.serialization.config",
    "lsqctl.recipe",
    "lsqctl.store",
    "lsqctl.training.finetuning",
    "lsqctl.training.image_folder",
    "lsqctl.worker.execute",
    "lsqctl.worker.inputs",
    "lsqctl.worker.reasons",
    "lsqctl.worker.recorder",
    "sqlalchemy.dialects.sqlite",
)
MAX_MESSAGE_BYTES = 65536
N_DESCRIPTORS = 4


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """What a forked child gets: its environment's changes, and its descriptors."""

    env: dict[str, str]
    stdin: int  # the spec, then the parent-death pipe
    log: int
    report: int
    status: int  # the child writes its pid here, the server its exit code


@dataclass(slots=True)
class ForkServer:
    """Forks a child for each request, and reports how each one ended."""

    channel: socket.socket
    status_fds: dict[int, int] = field(default_factory=dict)  # status descriptors by pid

    def serve(self) -> ForkRequest | None:
        """Return in each child with its request; in the parent, None once nobody asks any more."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # its number in the pipe is what wakes us
        signal.set_wakeup_fd(wake_write)
        while True:
            ready, _, _ = select.select([self.channel.fileno(), wake_read], [], [])
            if wake_read in ready:
                os.read(wake_read, 4096)
                self._report_exits()
            if self.channel.fileno() in ready:
                request = self._receive()
                if request is None:
                    return None
                if self._fork(request):
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.close(wake_read)
                    os.close(wake_write)
                    return request

    def _receive(self) -> ForkRequest | None:
        data, descriptors, _, _ = socket.recv_fds(self.channel, MAX_MESSAGE_BYTES, N_DESCRIPTORS)
        return ForkRequest(json.loads(data), *descriptors) if data else None

    def _fork(self, request: ForkRequest) -> bool:
        """Fork; return True in the child, which keeps nothing of the other children."""
        pid = os.fork()
        if pid == 0:
            self.channel.close()
            for status in self.status_fds.values():
                os.close(status)
            return True
        self.status_fds[pid] = request.status
        for descriptor in (request.stdin, request.log, request.report):
            os.close(descriptor)
        return False

    def _report_exits(self) -> None:
        """Tell the supervisor of each child that has ended."""
        while self.status_fds:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            descriptor = self.status_fds.pop(pid)
            write_line(descriptor, f"exit {os.waitstatus_to_exitcode(status)}")
            os.close(descriptor)


def write_line(descriptor: int, line: str) -> None:
    """Write a line to a supervisor that may be gone."""
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptor, f"{line}\n".encode())


def setup_child(request: ForkRequest) -> None:
    """Take a session, an environment and standard streams of its own, and say that it lives."""
    os.setsid()  # first: the supervisor signals the group that the pid names
    write_line(request.status, f"pid {os.getpid()}")
    os.close(request.status)
    update_environment(request.env)
    for source, target in ((request.stdin, 0), (request.log, 1), (request.log, 2)):
        os.dup2(source, target)
    for descriptor in (request.stdin, request.log):
        os.close(descriptor)


def main() -> int:
    """Warm up and serve; in a forked child, execute its attempt and return its exit code."""
    channel, supervisor_pid = map(int, sys.argv[1:3])
    set_parent_death_signal(supervisor_pid)
    for module in PRELOADED_MODULES:
        importlib.import_module(module)
    code_sha256()  # of what is loaded here, however the files may change while children are forked
    gc.collect()
    gc.freeze()  # the children share these pages; a collection would copy them
    server_pid = os.getpid()
    with socket.socket(fileno=channel) as connection:
        request = ForkServer(connection).serve()
    if request is None:
        return 0
    setup_child(request)
    try:
        return execute(request.report, server_pid)
    finally:
        gc.unfreeze()  # the interpreter's own end collects what it finds


if __name__ == "__main__":
    sys.exit(main())
