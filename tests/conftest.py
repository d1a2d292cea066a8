"""What all tests share: one core a process, laws that replay, and the real command line."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests.inside import Here
from tests.warm import WarmProcess, WarmStarter

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

os.environ["OMP_NUM_THREADS"] = "1"  # before torch
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["LSQCTL_PLUGINS"] = "0"  # what happens to be installed beside lsqctl is not tested

# Each process that tests start would compile the package anew, as no user's does.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Tests make some thousand databases and checkpoints, and each is synced to the disk: in memory
# that costs nothing. What a full or slow disk does is tested on mounts of their own.
_MEMORY = Path("/dev/shm")
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 8 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))
    tempfile.tempdir = str(_MEMORY)


def pytest_configure(config: pytest.Config) -> None:
    """Keep each process that runs tests, and all that it starts, to one core.

    A worker's two threads that wait for each other beside another test's took five times as long.
    """
    workers_run_them = not hasattr(config, "workerinput") and config.getoption("numprocesses", 0)
    if workers_run_them or not hasattr(os, "sched_setaffinity"):
        return
    name = os.environ.get("PYTEST_XDIST_WORKER", f"gw{os.getpid()}")
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(name.removeprefix("gw")) % len(cores)]})


# what is started in the background of a shell ignores Ctrl-C, and so would all that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)

FULL = bool(os.environ.get("LSQCTL_TEST_FULL"))

Case = TypeVar("Case")


def fewer(cases: Iterable[Case], count: int) -> list[Case]:
    """Return ``count`` of the cases, evenly apart; LSQCTL_TEST_FULL has them all."""
    every = list(cases)
    return every if FULL else [every[i * len(every) // count] for i in range(count)]


def examples(count: int) -> int:
    """Return how many examples a property is tried on; LSQCTL_TEST_FULL has ``count``."""
    return count if FULL else count // 4


# torch's first call takes most of a second; a time limit would only make tests flaky
settings.register_profile(
    "lsqctl",
    deadline=None,
    derandomize=True,
    max_examples=200 if FULL else 10,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("lsqctl")

TINY = """\
model: {name: resnet8}
data: {name: digits, batch_size: 256}
train: {epochs: 2, lr: 0.1}
"""


# Modules that share what a fixture of the whole session takes long to make.
_GROUPS = {
    "test_supervisor": "uninterrupted",
    "test_faults_of_the_lease": "uninterrupted",
    "test_faults_of_the_database": "uninterrupted",
    "test_slurm": "slurm",
    "test_faults": "slurm",
    "test_house_rules": "the parsed sources",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Keep together what shares a fixture that takes long, the largest groups first.

    The marks of ``--dist loadgroup`` do nothing: pytest 9.2 does not read what xdist 3.8 sets.
    """
    from xdist.scheduler import LoadScopeScheduling

    @cache
    def group(path: str) -> str:
        """Return the group of a module; nothing where its tests need not stay together."""
        shares = 'scope="module"' in (config.rootpath / path).read_text()
        return _GROUPS.get(Path(path).stem, path if shares else "")

    class ByFixture(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.partition("::")[0]) or nodeid

    return ByFixture(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what takes minutes; ``make test-full`` asks for it."""
    if FULL:
        return
    skipped = pytest.mark.skip(reason="minutes long: LSQCTL_TEST_FULL=1 runs it")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skipped)


def pytest_collection_finish() -> None:
    """Keep imports and what is collected out of what is walked for garbage: a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_unconfigure() -> None:
    """Let the interpreter's own end collect what it finds."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def unbroken_by_pipes() -> Iterator[None]:
    """Put back what a command that ran in this process changed: a closed pipe would kill it."""
    yield
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def unchanged_environment() -> Iterator[None]:
    """Put back what a command or a library set: no later process would be forked (WarmStarter)."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update(before)


WARM = WarmStarter()


@pytest.fixture(scope="session", autouse=True)
def _no_warm_process_stays() -> Iterator[None]:
    yield
    WARM.close()


class CommandLine:
    """The real ``lsqctl`` in a folder of its own, with a lease of one second.

    Each command is a process of its own; what its Python would import was imported before, unless
    ``cold`` or LSQCTL_TEST_FULL asks for it all.
    """

    cold = FULL

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        drop = ("LSQCTL_", "COLUMNS", "NO_COLOR", "FORCE_COLOR")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(drop)}
        self.environment = kept | {
            "LSQCTL_LEASE": "1",
            "LSQCTL_PLUGINS": "0",
            "PYTHONWARNINGS": "ignore",
        }
        self.started: list[subprocess.Popen[str] | WarmProcess] = []
        self.injected: dict[str, str] = {}

    def __call__(
        self, *words: str | Path, code: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; ``code`` is the exit code it must have, None for any."""
        process = self._start(words, self.environment | environment, merge=False)
        try:
            out, err = process.communicate(timeout=200)
        finally:
            process.kill()
        done = subprocess.CompletedProcess(words, process.wait(), out, err)
        assert "Traceback" not in done.stderr, done.stderr
        if code is not None:
            assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def start(self, *words: str | Path, **environment: str) -> subprocess.Popen[str] | WarmProcess:
        """Start a command and leave it running; it is killed when the test ends."""
        process = self._start(words, self.environment | environment, merge=True)
        self.started.append(process)
        return process

    def write(self, name: str, text: str) -> Path:
        """Write a file into the folder."""
        path = self.folder / name
        path.write_text(text)
        return path

    def _start(
        self, words: tuple[str | Path, ...], environment: dict[str, str], *, merge: bool
    ) -> subprocess.Popen[str] | WarmProcess:
        texts = [str(word) for word in words]
        warm = dict(environment)
        if self.injected:  # a forked process needs no sitecustomize
            del warm["PYTHONPATH"]
            warm |= {name: os.environ[name] for name in ["PYTHONPATH"] if name in os.environ}
        if not self.cold and WARM.can_start(warm):
            return WARM.start(texts, self.folder, warm, merge=merge, injected=self.injected)
        return subprocess.Popen(
            [sys.executable, "-m", "lsqctl", *texts],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
        )


def run_python(code: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Execute the code of a page as ``python -W error`` does; it must end well."""
    if FULL or not WARM.can_start(environment):
        command = [sys.executable, "-W", "error", "-c", code]
        subprocess.run(command, cwd=folder, env=environment, check=True)
        return
    strict = "import warnings; warnings.simplefilter('error')\n"
    process = WARM.start([], folder, environment, script=strict + code, torch=True)
    assert process.stdin is not None
    process.stdin.close()
    told = process.communicate(timeout=200)
    assert process.returncode == 0, told


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    """Return the command line in an empty folder."""
    line = CommandLine(tmp_path)
    yield line
    for process in line.started:
        process.kill()
        process.communicate()


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until ``what`` is true; fail when it does not become so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def no_locks(descriptor: int, operation: int) -> None:
    """Answer ``fcntl.flock`` as a file system without locks."""
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@contextmanager
def tmpfs(folder: Path, size: str, inodes: int = 0) -> Iterator[Path]:
    """Mount a file system of so many bytes (``2m``) and inodes on a folder; needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    options = [
        "-t",
        "tmpfs",
        "-o",
        f"size={size},nr_inodes={inodes},mode=0700",
        "tmpfs",
        str(folder),
    ]
    subprocess.run(["mount", *options], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Here:
    """The command line in this process and an empty folder."""
    for name in ("LSQCTL_HOME", "LSQCTL_DB", "COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    inside = Here(tmp_path, capsys, monkeypatch)
    inside.enter(tmp_path)
    return inside
