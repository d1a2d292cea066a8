"""What a bug report holds: versions, this machine, settings, findings, the queue, one run.

No part fails: one that cannot be had says why, in a value ``{"unavailable": "…"}``.
"""

from __future__ import annotations

import os
import platform
import re
import sqlite3
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsqctl.api.doctor import examine
from lsqctl.api.provenance import versions
from lsqctl.api.version import version_line
from lsqctl.api.workspace import open_workspace
from lsqctl.errors import LsqctlError, StoreError
from lsqctl.leaderboard.clean import clean
from lsqctl.settings import Settings, recorded_environment
from lsqctl.worker.order import log_path
from lsqctl.worker.slots import cpu_cores

if TYPE_CHECKING:
    from lsqctl.store import Store

Parts = dict[str, object]  # by the name of the member: text, or what JSON can hold

PACKAGES = (
    *("torch", "torchvision", "numpy", "sqlalchemy", "alembic", "psycopg", "pandas", "pydantic"),
    *("pyyaml", "yamlcore", "typer", "rich", "jinja2", "psutil", "scikit-learn", "safetensors"),
    *("timm", "matplotlib", "nvidia-ml-py"),
)
LOG_LINES = 200
LOG_BYTES = 256 * 1024  # of a log's end, at most
MOST_LOGS = 20
MOST_WORKERS = 50
CPUS = Path("/proc/cpuinfo")
GPUS = Path("/proc/driver/nvidia/gpus")
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")  # colours and movements of the cursor
# What a damaged database or file may raise, besides the errors made for users.
_MISHAPS = (LsqctlError, OSError, ValueError, LookupError, TypeError)


def facts_of_here(settings: Settings, origins: Mapping[str, str]) -> Parts:
    """Return what is true of the installation and the machine; ``origins`` as settings gives it."""
    return {
        "versions.json": _asked(_versions),
        "machine.json": _asked(_machine),
        "settings.json": _asked(lambda: _settings(settings, origins)),
        "doctor.json": _asked(lambda: {"schema_version": 1, "findings": examine(settings)}),
    }


def facts_of_store(settings: Settings, reference: str | None) -> Parts:
    """Return the state of the queue and, if asked, all about one run but what it measured.

    Raises NotFound or UsageError where the run that ``reference`` names is not there.
    """
    found: Parts = {}
    try:
        with open_workspace(settings, read_only=True) as store:
            found["queue.json"] = _asked(lambda: _queue(store))
            if reference:
                found |= _run(store, settings, store.resolve(reference).id)
    except LsqctlError as error:
        if reference and not isinstance(error, StoreError):
            raise
        missing = {"unavailable": str(error)}
        return {"queue.json": missing} | ({"run.json": missing} if reference else {}) | found
    return found


def _asked(ask: Callable[[], object]) -> object:
    try:
        return ask()
    except _MISHAPS as error:
        what = str(error) if isinstance(error, LsqctlError) else f"{type(error).__name__}: {error}"
        return {"unavailable": what}


def _versions() -> Parts:
    return {
        "lsqctl": version_line(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": versions(PACKAGES),
    }


def _machine() -> Parts:
    cpus = re.search(r"^model name\s*: (.*)$", _read(CPUS), re.MULTILINE)
    gpus = [_read(path) for path in sorted(GPUS.glob("*/information"))]
    return {
        "platform": platform.platform(),
        "architecture": platform.machine(),
        "cpu": cpus[1] if cpus else "",
        "cpu_cores": cpu_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [match[1] for text in gpus if (match := re.search(r"Model:\s*(.*)", text))],
        "variables": recorded_environment(),
    }


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _settings(settings: Settings, origins: Mapping[str, str]) -> Parts:
    return {name: {"value": getattr(settings, name), "from": origins[name]} for name in origins}


def _queue(store: Store) -> Parts:
    return {
        "url": store.url,
        "schema": store.schema_version(),
        "runs": {state.value: count for state, count in store.counts().items()},
        "workers": [
            {
                "name": one.identity.name,
                "device": one.identity.device,
                "slots": one.identity.slots,
                "host": one.identity.host,
                "registered_at": one.registered_at,
                "seen_at": one.seen_at,
                "gone_at": one.gone_at,
                "notice": one.notice,
            }
            for one in islice(store.workers(), MOST_WORKERS)
        ],
    }


def _run(store: Store, settings: Settings, run_id: str) -> Parts:
    attempts = store.detail(run_id).run.attempt
    newest = range(max(1, attempts - MOST_LOGS + 1), attempts + 1)
    logs = {n: log_path(settings.run_dir(run_id), n) for n in newest}
    return {
        "run.json": _asked(lambda: store.detail(run_id)),
        "events.json": _asked(lambda: store.events(run_id)),
        **{f"attempt-{number}.log": _log(path) for number, path in logs.items()},
    }


def _log(path: Path) -> str:
    """Return the end of a log, or why there is none."""
    found = _asked(lambda: log_end(path))
    if isinstance(found, str):
        return found
    return f"no log here: {path}; it lies on the machine whose worker ran the attempt\n"


def log_end(path: Path) -> str:
    """Return the last ``LOG_BYTES`` of a file in whole lines: half a secret could not be known."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LOG_BYTES))
        data = file.read(LOG_BYTES)
    if size > LOG_BYTES:
        data = data.partition(b"\n")[2]
    return _TERMINAL.sub("", data.decode("utf-8", "replace").replace("\r", "\n"))


def last_lines(text: str) -> str:
    """Return the last ``LOG_LINES`` lines, safe to print."""
    return "".join(f"{clean(line)}\n" for line in text.splitlines()[-LOG_LINES:])


def strings_at(facts: Any, *keys: str) -> frozenset[str]:
    """Return every string that stands under one of these keys, however deep."""
    if isinstance(facts, list):
        return frozenset().union(*(strings_at(one, *keys) for one in facts))
    if not isinstance(facts, dict):
        return frozenset()
    here = frozenset(v for k, v in facts.items() if k in keys and isinstance(v, str) and v)
    return here.union(*(strings_at(one, *keys) for one in facts.values()))
