"""What the environment and the file system say: the workspace, the database, where data lies.

The only reader of ``os.environ``. Order: a flag, then a variable, then what is found.

* ``LSQCTL_HOME``   the workspace folder (default: ``.lsqctl`` found upward like ``.git``)
* ``LSQCTL_DB``     the database's URL (default: SQLite in the workspace)
* ``LSQCTL_DATA``   the folder of datasets and weights (default: ``data`` in the workspace)
* ``LSQCTL_LEASE``  seconds a worker owns a run without renewing (30; the heartbeat is a sixth)
* ``LSQCTL_FAILPOINT``, ``LSQCTL_FAILPOINT_ONCE``  faults for tests, see ``lsqctl.failpoint``
* ``LSQCTL_COMPILE``  auto (default), on or off: whether networks are compiled (``--compile``)
* ``LSQCTL_PLUGINS``  0: no plugin is found or imported (``lsqctl.discovery``)
* ``LSQCTL_USER``   who submits runs (default: the name that this user is logged in by)
* ``LSQCTL_WARM``   0: a worker starts a new Python for each attempt instead of using a fork server
"""

from __future__ import annotations

import getpass
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import unquote

from lsqctl.errors import UsageError
from lsqctl.ownership import check_found_workspace, check_not_public, make_private_dir

WORKSPACE = ".lsqctl"
_SQLITE = "sqlite:///"
_REAPED_AT_FULL_PACE = 30  # runs at work; with more of them, each worker looks the less often
CompileMode = Literal["auto", "on", "off"]
VARIABLES: tuple[str, ...] = tuple(re.findall(r"``(LSQCTL_[A-Z_]+)``", __doc__ or ""))

# Variables that explain a result and hold no secret; nothing else of the environment is stored.
RECORDED_VARIABLES = tuple(
    """CUBLAS_WORKSPACE_CONFIG CUDA_DEVICE_ORDER CUDA_LAUNCH_BLOCKING CUDA_VISIBLE_DEVICES
    KMP_AFFINITY MKL_CBWR MKL_NUM_THREADS NVIDIA_TF32_OVERRIDE OMP_NUM_THREADS OMP_PROC_BIND
    PYTHONHASHSEED PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF SLURM_ARRAY_JOB_ID
    SLURM_ARRAY_TASK_ID SLURM_CLUSTER_NAME SLURM_CPUS_PER_TASK SLURM_NODELIST SLURM_RESTART_COUNT
    TORCH_ALLOW_TF32_CUBLAS_OVERRIDE""".split()
)
# Families of them; a member whose name speaks of a secret (SLURM_JOB_TOKEN) stays out.
RECORDED_PREFIXES = ("NCCL_", "SLURM_JOB_")
_SECRET_WORDS = ("AUTH", "CRED", "KEY", "PASS", "SECRET", "TOKEN")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things lie, and how long a lease lasts."""

    home: Path
    db_url: str
    data_dir: Path
    lease_seconds: float = 30.0
    data_dir_explicit: bool = False  # by flag or variable; else a run's own record comes first
    warm: bool = True  # children are forked from a parent that has imported torch
    compile: CompileMode = "auto"  # torch.compile: where it repays itself, always, never

    @property
    def heartbeat_seconds(self) -> float:
        """Seconds between two renewals of a lease."""
        return self.lease_seconds / 6

    def reap_seconds(self, running_runs: int) -> float:
        """Return the seconds between two reaps: a dead worker is found within a lease and two.

        Each reads every running run, so that among many each worker looks the less often.

        >>> settings = Settings(Path(), "", Path(), lease_seconds=30)
        >>> [settings.reap_seconds(runs) for runs in (0, 30, 60, 1000)]
        [1.0, 1.0, 2.0, 10.0]
        """
        crowd = running_runs / _REAPED_AT_FULL_PACE
        return min(self.lease_seconds / 30 * max(1.0, crowd), self.lease_seconds / 3)

    @property
    def runs_dir(self) -> Path:
        """The folder that holds one folder a run, named by the run's id."""
        return self.home / "runs"

    @property
    def trash_dir(self) -> Path:
        """The folder of runs that were removed and can be restored."""
        return self.home / "trash"

    @property
    def plugins_dir(self) -> Path:
        """The folder of plugins that are one file each, imported once they are trusted."""
        return self.home / "plugins"

    @property
    def published_results_file(self) -> Path:
        """The published results that were added to this workspace, one a line."""
        return self.home / "references.jsonl"

    def data_dir_of(self, recorded: str | None) -> Path:
        """Return the data folder of a run: as given, else as its submission recorded it."""
        if self.data_dir_explicit or not recorded or not Path(recorded).is_dir():
            return self.data_dir
        return Path(recorded)

    def run_dir(self, run_id: str) -> Path:
        """Return the folder of one run: its logs and checkpoints."""
        return self.runs_dir / run_id


def load_settings(
    *, home: Path | None = None, db: str | None = None, data_dir: Path | None = None
) -> Settings:
    """Return the settings that hold here; arguments are command-line flags and come first.

    Raises StoreError for a workspace that was found, not named, and may be another account's, and
    UsageError for what cannot be a setting.
    """
    env = os.environ
    named_home = _to_path(str(home or "") or env.get("LSQCTL_HOME"))
    home_dir = (named_home or find_home(Path.cwd())).absolute()
    if named_home is None:
        check_found_workspace(home_dir)
    url = db or env.get("LSQCTL_DB") or sqlite_url(home_dir / "lsqctl.db")
    explicit_data_dir = _to_path(str(data_dir or "") or env.get("LSQCTL_DATA"))
    return Settings(
        home=home_dir,
        db_url=url,
        data_dir=(explicit_data_dir or home_dir / "data").absolute(),
        lease_seconds=_parse_lease(env.get("LSQCTL_LEASE")),
        data_dir_explicit=explicit_data_dir is not None,
        warm=env.get("LSQCTL_WARM") != "0",
        compile=_parse_compile(env.get("LSQCTL_COMPILE") or "auto"),
    )


def sqlite_url(path: Path) -> str:
    """Return the database URL of a file; letters that mean something in a URL are escaped."""
    return _SQLITE + str(path).replace("%", "%25").replace("?", "%3F")


def sqlite_path(url: str) -> Path | None:
    """Return the file that ``sqlite_url`` was given; None for another kind of database."""
    if not url.startswith(_SQLITE):
        return None
    return Path(unquote(url.removeprefix(_SQLITE).partition("?")[0]))


def sources(
    *, home: Path | None = None, db: str | None = None, data_dir: Path | None = None
) -> dict[str, str]:
    """Return where each setting comes from: a flag, a variable, or ``default``.

    Arguments are as for ``load_settings``.
    """
    flags = {"home": ("--home", home), "db_url": ("--db", db), "data_dir": ("--data-dir", data_dir)}
    variables = {
        "home": "LSQCTL_HOME",
        "db_url": "LSQCTL_DB",
        "data_dir": "LSQCTL_DATA",
        "lease_seconds": "LSQCTL_LEASE",
        "warm": "LSQCTL_WARM",
        "compile": "LSQCTL_COMPILE",
    }
    source_by_setting = {
        name: variable if os.environ.get(variable) else "default"
        for name, variable in variables.items()
    }
    return source_by_setting | {name: flag for name, (flag, value) in flags.items() if value}


def find_home(start: Path) -> Path:
    """Return the nearest ``.lsqctl`` at or above ``start``, or the one to be made in ``start``."""
    for folder in (start, *start.parents):
        if (folder / WORKSPACE).is_dir():
            return folder / WORKSPACE
    return start / WORKSPACE


def recorded_variables() -> dict[str, str]:
    """Return the variables of the allow-list that are set."""
    return {name: value for name, value in sorted(os.environ.items()) if _is_recorded(name)}


def secret_values() -> frozenset[str]:
    """Return the values of variables whose names speak of a secret, to be kept out of files.

    Values of less than 6 characters are left out: `true` and `echo` are no secrets.
    """
    named = (v for k, v in os.environ.items() if any(word in k.upper() for word in _SECRET_WORDS))
    return frozenset(value for value in named if len(value) >= 6)


def unknown_variables() -> list[str]:
    """Return the variables that are set and look like ours, yet are none of VARIABLES."""
    names = (name for name in os.environ if name.startswith("LSQCTL_"))
    return sorted(set(names) - set(VARIABLES)) if VARIABLES else []


def plugins_enabled() -> bool:
    """Return whether plugins may be found; LSQCTL_PLUGINS=0 switches all of them off."""
    return os.environ.get("LSQCTL_PLUGINS") != "0"


def current_user() -> str:
    """Return who submits: LSQCTL_USER, else the login name, empty where the system tells none."""
    try:
        return os.environ.get("LSQCTL_USER") or getpass.getuser()
    except (OSError, KeyError):  # a container's number without a name; KeyError before 3.13
        return ""


def config_dir() -> Path:
    """Return the folder of what this user has decided, on this machine: XDG_CONFIG_HOME's."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "lsqctl"


def color_forced() -> bool:
    """Return whether FORCE_COLOR asks for colour where no terminal is."""
    return bool(os.environ.get("FORCE_COLOR"))


def scheduler_environment() -> dict[str, str]:
    """Return the environment for a scheduler's commands, which hand it on and may keep it.

    It has no variable of ours, none whose name speaks of a secret, and none that a job has: a
    dispatcher may itself run in one.
    """
    drop = ("LSQCTL_", "SLURM_", "SQUEUE_", "SCANCEL_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(drop) and not any(word in name.upper() for word in _SECRET_WORDS)
    }
    of_the_site = ("SLURM_CONF", "SLURM_CLUSTERS", "SSH_AUTH_SOCK")
    named = {name: os.environ[name] for name in of_the_site if name in os.environ}
    return {**kept, **named, "LC_ALL": "C"}


def allocation_variables() -> dict[str, str]:
    """Return what Slurm says of the job that this process is in; empty outside of one."""
    of_job = ("SLURM_", "CUDA_VISIBLE_DEVICES")
    return {name: value for name, value in os.environ.items() if name.startswith(of_job)}


def allocated_cores() -> int | None:
    """Return the cores that Slurm gave this job on this node, None outside of one.

    Without its affinity plugin nothing but this variable tells a job from the whole node.
    """
    text = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return int(text) if text.isdigit() and int(text) and "SLURM_JOB_ID" in os.environ else None


def failpoint_variables() -> tuple[str, Path | None]:
    """Return what faults a test asks for, and the folder that makes each happen but once."""
    return os.environ.get("LSQCTL_FAILPOINT", ""), _to_path(os.environ.get("LSQCTL_FAILPOINT_ONCE"))


def module_command(module: str) -> tuple[str, ...]:
    """Return the words that run a module of lsqctl as a process of its own.

    Without ``-P`` Python would import what lies in the folder that a command was given in before
    its own: a recipe's folder may hold a ``queue.py``. Only where lsqctl itself is found so, in a
    checkout that is not installed, is that left.
    """
    try:
        is_checkout = Path(__file__).parents[1] == Path.cwd()
    except OSError:  # the folder is gone
        is_checkout = False
    return (sys.executable, *(() if is_checkout else ("-P",)), "-m", module)


def child_environment(changes: dict[str, str]) -> dict[str, str]:
    """Return this process's environment with ``changes``, for a child process."""
    return {**os.environ, **changes}


def thread_variables(threads: int) -> dict[str, str]:
    """Return what lets a child's libraries use ``threads`` threads that do not wait busily.

    OpenMP's wait by spinning: beside other work each step waits for a thread that has no core. On
    two busy cores a step of ResNet-20 took 3.5 s so, 1.8 s with this count and 1.3 s with a count
    of 1,000, which cost up to a fifth where the cores were free; this one cost nothing there. Who
    has set how to wait is left alone.
    """
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    if os.environ.keys().isdisjoint({"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}):
        variables["GOMP_SPINCOUNT"] = "30000"
    return variables


def _is_recorded(name: str) -> bool:
    if name in RECORDED_VARIABLES:
        return True
    return name.startswith(RECORDED_PREFIXES) and not any(word in name for word in _SECRET_WORDS)


def update_environment(changes: Mapping[str, str]) -> None:
    """Set variables of this process, before anything reads them."""
    os.environ.update(changes)


def make_compile_cache(label: str, *, default: str) -> None:
    """Let all runs of this user share what they have compiled, in a folder that is theirs alone.

    ``label`` names what it was compiled for. A TORCHINDUCTOR_CACHE_DIR that is set is left alone;
    to ``default`` torch itself sets it when it is imported. Raises StoreError where another
    account could have put code into the folder, which torch would load, and OSError.
    """
    named = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if named and named != default:
        if os.path.isdir(named):
            check_not_public(Path(named))
        return
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "lsqctl" / "compiled" / label
    for private in (folder.parent.parent, folder.parent, folder):
        make_private_dir(private)
    folder.chmod(0o700)  # what torch makes inside follows the umask
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def cpp_compiler() -> str:
    """Return the C++ compiler that torch.compile would call."""
    return os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")


def visible_gpus() -> list[str] | None:
    """Return the GPUs that CUDA_VISIBLE_DEVICES allows (numbers or UUIDs), None for all."""
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if text is None else [entry.strip() for entry in text.split(",") if entry.strip()]


def expand_home(path: Path) -> Path:
    """Return a path whose ``~`` is written out.  Raises UsageError for a user that is not there.

    >>> expand_home(Path("~nobody-of-this-name/x"))
    Traceback (most recent call last):
    lsqctl.errors.UsageError: ~nobody-of-this-name/x: no user has that home folder
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(f"{path}: no user has that home folder") from None


def _to_path(text: str | None) -> Path | None:
    return expand_home(Path(text)) if text else None


def _parse_compile(text: str) -> CompileMode:
    for mode in get_args(CompileMode):
        if text == mode:
            return mode  # type: ignore[no-any-return]
    raise UsageError(f"LSQCTL_COMPILE must be auto, on or off, got {text!r}")


def _parse_lease(text: str | None) -> float:
    if not text:
        return 30.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.2 <= seconds <= 86_400:
        raise UsageError(f"LSQCTL_LEASE must be 0.2 to 86400 seconds, got {text!r}")
    return seconds
