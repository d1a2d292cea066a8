"""Processes of ``lsqctl`` without the start of a Python: forked from one that has the imports done.

To start Python and import takes a second, for a worker five, and the tests start thousands. So
``python -m tests.warm CHANNEL`` imports the libraries, and nothing else happens in it; it forks for
each command a process of its own: own pid, standard streams, folder, environment, signals, end. A
worker's fork server is forked in the same way from the worker. The starts themselves are tested
cold (start-up imports, the wheel, LSQCTL_WARM=0); LSQCTL_TEST_FULL has all cold.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from lsqctl.worker.fork_server import PRELOADED_MODULES

_LIBRARIES = (
    *(
        "alembic.command",
        "alembic.script",
        "numpy",
        "pandas",
        "pydantic",
        "rich.live",
        "rich.table",
    ),
    *(
        "sqlalchemy",
        "sqlalchemy.dialects.sqlite",
        "sqlalchemy.dialects.postgresql",
        "typer",
        "yaml",
    ),
)
_PACKAGES = ("cli", "services", "store", "leaderboard", "recipe", "recipe_file", "filters")
_COMMANDS_WITH_TORCH = {
    *("run", "worker", "submit", "sweep", "verify", "conformance", "deploy"),
    "recipe show",  # the cost of its network
}
# What is read when it is asked for. A change of any other variable may need a Python of its own.
_READ_LATE = (
    *("LSQCTL_", "PYTEST_", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM", "PATH", "HOME"),
    "TORCHINDUCTOR_CACHE_DIR",  # torch sets it when it is imported
    *("AWS_", "GIT_", "HF_TOKEN", "MY_PASSWORD", "NCCL_", "SLURM_", "WANDB_"),
)


Streams = tuple[int, int, int]


class WarmProcess:
    """The part of subprocess.Popen that tests use, for a process that is no child of ours."""

    def __init__(
        self, status_fd: int, stdin: int | None, stdout: int | None, stderr: int | None
    ) -> None:
        self._status = os.fdopen(status_fd, "rb", buffering=0)
        self.pid = int(self._status.readline().split()[-1])
        self.stdin = None if stdin is None else os.fdopen(stdin, "w")
        self.stdout = None if stdout is None else os.fdopen(stdout)
        self.stderr = None if stderr is None else os.fdopen(stderr)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            self.returncode = int(self._status.readline().split()[-1])
            self._status.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        end = time.monotonic() + (3600 if timeout is None else timeout)
        texts = {pipe: b"" for pipe in (self.stdout, self.stderr) if pipe is not None}
        waiting = {pipe for pipe in texts if not pipe.closed}
        while waiting:
            ready, _, _ = select.select(list(waiting), [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            for pipe in ready:
                piece = os.read(pipe.fileno(), 65536)
                texts[pipe] += piece
                if not piece:
                    waiting.remove(pipe)
                    pipe.close()
        self.wait(max(0.0, end - time.monotonic()))
        out, err = (None if p is None else texts[p].decode() for p in (self.stdout, self.stderr))
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class WarmStarter:
    """Starts the processes that fork, when they are first needed, and asks them.

    There are two, for to fork one that has imported torch takes five times as long.
    """

    def __init__(self) -> None:
        self._servers: dict[bool, tuple[socket.socket, subprocess.Popen[bytes]]] = {}
        self._environment = dict(os.environ)

    def can_start(self, environment: Mapping[str, str]) -> bool:
        """Whether a forked process would see this environment as a new Python does."""
        both = self._own.items() ^ environment.items()
        return all(name.startswith(_READ_LATE) for name, _ in both)

    @property
    def _own(self) -> dict[str, str]:
        return self._environment | {"PYTHONWARNINGS": "ignore"}

    def start(
        self,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        *,
        merge: bool = False,
        streams: Streams | None = None,
        controls: bool = False,
        injected: Mapping[str, str] = MappingProxyType({}),
        script: str | None = None,
        torch: bool = False,
    ) -> WarmProcess:
        """Start ``lsqctl`` with its output in pipes, or with standard streams of the caller's.

        ``merge`` puts stderr into stdout. Let ``controls`` be true where stdin is a terminal that
        controls it. A ``script`` is executed instead, with a pipe as stdin; say whether it needs
        ``torch``.
        """
        pipes: list[int | None] = [None, None, None]
        ends = list(streams or ())
        if streams is None:
            ends, pipes = _pipes(merge=merge, writes=script is not None)
        status, status_end = os.pipe()
        request = {"words": list(words), "folder": str(folder), "env": dict(environment)}
        request |= {"injected": dict(injected), "script": script, "controls": controls}
        with_torch = torch or not _COMMANDS_WITH_TORCH.isdisjoint([*words, " ".join(words[:2])])
        request["torch"] = with_torch
        channel, data = self._connected(with_torch), json.dumps(request).encode()
        socket.send_fds(channel, [data], [*ends, status_end])
        for end in {status_end} | (set(ends) if streams is None else set()):
            os.close(end)
        return WarmProcess(status, *pipes)

    def _connected(self, with_torch: bool) -> socket.socket:
        if with_torch not in self._servers:
            channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
                    cwd=Path(__file__).parent.parent,
                    env=self._own | {"OPENBLAS_NUM_THREADS": "1"},  # else threads on import
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            self._servers[with_torch] = channel, process
        return self._servers[with_torch][0]

    def close(self) -> None:
        """End them, and with them what they have forked.

        What this process has forked since may have the channel still: to close it is not enough.
        """
        for channel, process in self._servers.values():
            with channel, contextlib.suppress(OSError):  # it has ended
                channel.shutdown(socket.SHUT_RDWR)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._servers.clear()


def _pipes(*, merge: bool, writes: bool) -> tuple[list[int], list[int | None]]:
    """Return the process's three streams, and the other ends of those that are pipes."""
    stdin_end, stdin = os.pipe() if writes else (os.open(os.devnull, os.O_RDONLY), None)
    stdout, stdout_end = os.pipe()
    stderr, stderr_end = (None, stdout_end) if merge else os.pipe()
    return [stdin_end, stdout_end, stderr_end], [stdin, stdout, stderr]


def _serve(channel: socket.socket) -> None:
    """Fork for each request until nobody can ask any more; the children never return."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write)
    status_fds: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([channel, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
            _report_ends(status_fds)
        if channel not in ready:
            continue
        data, fds, _, _ = socket.recv_fds(channel, 2**20, 4)
        if not data:
            for pid in status_fds:
                os.kill(pid, signal.SIGKILL)
            return
        request = json.loads(data)
        if request["torch"] and "torch" not in sys.modules:
            _import(PRELOADED_MODULES)
        if (pid := os.fork()) == 0:
            _become(request["env"], fds[:3], [])
            if request["controls"]:
                os.setsid()
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            _run_to_the_end(partial(_command, request))
        os.write(fds[3], f"pid {pid}\n".encode())
        status_fds[pid] = fds.pop()
        for fd in fds:
            os.close(fd)


def _report_ends(status_fds: dict[int, int]) -> None:
    while status_fds:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        fd = status_fds.pop(pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(fd, f"exit {os.waitstatus_to_exitcode(status)}\n".encode())
        os.close(fd)


def _import(modules: Collection[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()


def _command(request: Mapping[str, Any]) -> None:
    from lsqctl.worker import launchers
    from tests.worker.injected import install

    install(request["injected"])
    os.chdir(request["folder"])
    if request["script"] is not None:
        sys.argv = ["-c", *request["words"]]
        exec(compile(request["script"], "<script>", "exec"), {"__name__": "__main__"})
        return
    sys.argv = ["lsqctl", *request["words"]]
    launchers.subprocess = _WarmLaunches()  # type: ignore[assignment]
    runpy.run_module("lsqctl", run_name="__main__", alter_sys=True)


class _WarmLaunches:
    """What a worker's launchers see as ``subprocess``: a fork server is forked."""

    DEVNULL, TimeoutExpired = subprocess.DEVNULL, subprocess.TimeoutExpired

    @staticmethod
    def Popen(command: list[str], **options: Any) -> Any:
        if "lsqctl.worker.fork_server" in command:
            return _ForkedServer(command, **options)
        return subprocess.Popen(command, **options)


class _ForkedServer:
    """The part of Popen that the supervisor uses, for its fork server."""

    def __init__(
        self,
        command: list[str],
        *,
        stdin: int,
        stdout: io.BufferedRandom,
        stderr: io.BufferedRandom,
        pass_fds: Collection[int],
        env: Mapping[str, str],
        start_new_session: bool,
    ) -> None:
        assert stdin == subprocess.DEVNULL
        assert stderr is stdout
        assert start_new_session
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            out = stdout.fileno()
            _become(env, [os.open(os.devnull, os.O_RDONLY), out, out], pass_fds)
            atexit._clear()  # what the worker does at its own end
            sys.argv = command[command.index("-m") + 1 :]
            from lsqctl.worker.fork_server import main

            _run_to_the_end(lambda: sys.exit(main()))

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (timeout if timeout is not None else 3600)
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("fork server", timeout or 0.0)
            time.sleep(0.005)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _become(env: Mapping[str, str], streams: Sequence[int], keep: Collection[int]) -> None:
    """Be as after an exec: signals, descriptors, environment, standard streams."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    high = [os.dup(fd) for fd in streams]  # none of them is 0, 1 or 2 by now
    for target, fd in enumerate(high):
        os.dup2(fd, target)
    first = 3
    for kept in sorted(keep):
        os.closerange(first, kept)
        first = kept + 1
    os.closerange(first, 65536)
    os.environ.clear()
    os.environ.update(env)
    unbuffered = bool(env.get("PYTHONUNBUFFERED"))
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (until the end)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(write_through=unbuffered)
    sys.stderr.reconfigure(line_buffering=True)


def _run_to_the_end(work: Callable[[], object]) -> NoReturn:
    """End the process as Python does, without taking apart what it has imported."""
    code: object = 0
    try:
        work()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int):
        if code is not None:
            print(code, file=sys.stderr)
        code = int(code is not None)
    with contextlib.suppress(Exception):
        threading._shutdown()
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code & 0xFF)


def main() -> None:
    """Import what short commands need, then serve."""
    paths = {name: importlib.import_module(f"lsqctl.{name}").__path__ for name in _PACKAGES}
    modules = [
        module.name
        for name, path in paths.items()
        for module in pkgutil.walk_packages(path, f"lsqctl.{name}.")
    ]
    _import([*_LIBRARIES, *modules])
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        _serve(channel)
    os._exit(0)  # without taking apart what was imported


if __name__ == "__main__":
    main()
