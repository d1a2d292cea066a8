"""Laws of the fork server and its children, on real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lsqctl.settings import child_environment
from lsqctl.worker.launchers import (
    ForkedProcessHandle,
    ForkServerLauncher,
    Pipes,
    _fork_server_variables,
)
from tests.conftest import TINY, wait_for
from tests.worker.long_run import final_hashes, reproducible, store_of, submitted


@pytest.fixture(scope="module")
def launcher():
    launcher = ForkServerLauncher(threads=1)
    launcher.start()
    yield launcher
    launcher.close()


class Started:
    """A child that waits for an order which never comes."""

    def __init__(self, launcher: ForkServerLauncher, log: Path) -> None:
        order, self.parent_death_pipe = os.pipe()
        self.report, words = os.pipe()
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.process: ForkedProcessHandle = launcher.launch(Pipes(order, log_fd, words), {"A": "b"})
        for descriptor in (order, log_fd, words):
            os.close(descriptor)

    def code(self) -> int:
        wait_for(lambda: self.process.poll() is not None)
        os.close(self.parent_death_pipe)
        os.close(self.report)
        code = self.process.poll()
        assert code is not None
        return code


def parent_of(launcher: ForkServerLauncher) -> psutil.Process:
    assert launcher._server is not None
    return psutil.Process(launcher._server._popen.pid)


@pytest.mark.slow
def test_a_signal_sent_before_the_child_lives_reaches_it_and_names_its_end(launcher, tmp_path):
    child = Started(launcher, tmp_path / "log")
    child.process.signal(signal.SIGKILL)
    assert child.code() == -signal.SIGKILL
    assert child.process.exit_cause == ""


def test_a_child_leads_a_session_of_its_own_and_writes_to_its_log(launcher, tmp_path):
    child = Started(launcher, tmp_path / "log")
    wait_for(lambda: child.process.poll() is not None or child.process.pid is not None)
    pid = child.process.pid
    assert pid is not None
    assert os.getsid(pid) == os.getpgid(pid) == pid
    os.close(child.parent_death_pipe)
    child.parent_death_pipe = os.open(os.devnull, os.O_RDONLY)
    assert child.code() == 1, "an order that is cut short is an error"
    assert "JSONDecodeError" in (tmp_path / "log").read_text()


def test_the_fork_server_outlives_what_a_scheduler_sends_to_a_whole_job(launcher, tmp_path):
    parent = parent_of(launcher)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        parent.send_signal(number)
    child = Started(launcher, tmp_path / "log")
    child.process.signal(signal.SIGKILL)
    assert child.code() == -signal.SIGKILL
    assert parent_of(launcher) == parent


def test_a_fork_server_that_dies_ends_its_children_with_a_reason_and_is_started_again(tmp_path):
    launcher = ForkServerLauncher(threads=1)
    child = Started(launcher, tmp_path / "log")
    parent_of(launcher).kill()
    assert child.code() == -signal.SIGKILL
    assert child.process.exit_cause == "the fork server ended: killed by SIGKILL"
    later = Started(launcher, tmp_path / "log")
    later.process.signal(signal.SIGKILL)
    assert later.code() == -signal.SIGKILL
    assert later.process.exit_cause == ""
    launcher.close()


@pytest.mark.slow
def test_warming_starts_no_thread_and_touches_no_cuda():
    probe = """
import importlib, os, torch
calls = []
def spied(name, real):
    return lambda *args, **options: (calls.append(name), real(*args, **options))[1]
for name in dir(torch._C):
    if name.startswith("_cuda_"):
        setattr(torch._C, name, spied(name, getattr(torch._C, name)))
torch.cuda.is_available()
seen, calls[:] = list(calls), []
from lsqctl.worker.fork_server import PRELOADED_MODULES
for module in PRELOADED_MODULES:
    importlib.import_module(module)
print(bool(seen), calls, torch.cuda.is_initialized(), len(os.listdir("/proc/self/task")))
"""
    done = subprocess.run(
        [sys.executable, "-c", probe],
        env=child_environment(_fork_server_variables(2)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "True [] False 1"


@pytest.mark.slow
def test_a_forked_child_computes_the_same_bits_as_a_python_of_its_own(cli):
    """Two threads: a parent that had started its thread pool would show here."""
    ends, records = [], []
    for warm in ("0", "1"):
        run_id = submitted(cli, TINY, "--if-exists", "rerun", "--seed", "3")
        cli("worker", "--until-empty", "--slots", "1", LSQCTL_WARM=warm)
        with store_of(cli) as store:
            ends.append((final_hashes(cli, run_id)["model.pt"], reproducible(store, run_id)))
            (attempt,) = store.runs.detail(run_id).attempts
            records.append(attempt.environment)
    assert ends[0] == ends[1]
    assert records[0] == records[1], "environment, threads and versions"
