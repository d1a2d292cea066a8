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

from lsqctl.api.doctor import diagnose
from lsqctl.api.provenance import installed_versions
from lsqctl.api.version import version_line
from lsqctl.api.workspace import open_workspace
from lsqctl.errors import LsqctlError, StoreError
from lsqctl.leaderboard.clean import clean
from lsqctl.settings import Settings, recorded_variables
from lsqctl.worker.order import log_path
from lsqctl.worker.slots import cpu_cores

if TYPE_CHECKING:
    from lsqctl.store import Store

Sections = dict[str, object]  # by the name of the member: text, or what JSON can hold

PACKAGES = (
    *("torch", "torchvision", "numpy", "sqlalchemy", "alembic", "psycopg", "pandas", "pydantic"),
    *("pyyaml", "yamlcore", "typer", "rich", "jinja2", "psutil", "scikit-learn", "safetensors"),
    *("timm", "matplotlib", "nvidia-ml-py"),
)
MAX_LOG_LINES = 200
MAX_LOG_BYTES = 256 * 1024  # of a log's end, at most
MAX_LOGS = 20
MAX_WORKERS = 50
CPU_INFO = Path("/proc/cpuinfo")
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
_ANSI_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")  # colours and movements of the cursor
# What a damaged database or file may raise, besides the errors made for users.
_SECTION_ERRORS = (LsqctlError, OSError, ValueError, LookupError, TypeError)


def machine_sections(settings: Settings, sources: Mapping[str, str]) -> Sections:
    """Return what is true of the installation and the machine; ``sources`` as settings gives it."""
    return {
        "versions.json": _or_unavailable(_versions_section),
        "machine.json": _or_unavailable(_machine_section),
        "settings.json": _or_unavailable(lambda: _settings_section(settings, sources)),
        "doctor.json": _or_unavailable(lambda: {"schema_version": 1, "findings": diagnose(settings)}),
    }


def store_sections(settings: Settings, run_ref: str | None) -> Sections:
    """Return the state of the queue and, if asked, all about one run but what it measured.

    Raises NotFound or UsageError where the run that ``run_ref`` names is not there.
    """
    sections: Sections = {}
    try:
        with open_workspace(settings, read_only=True) as store:
            sections["queue.json"] = _or_unavailable(lambda: _queue_section(store))
            if run_ref:
                sections |= _run_sections(store, settings, store.resolve(run_ref).id)
    except LsqctlError as error:
        if run_ref and not isinstance(error, StoreError):
            raise
        unavailable = {"unavailable": str(error)}
        return {"queue.json": unavailable} | ({"run.json": unavailable} if run_ref else {}) | sections
    return sections


def _or_unavailable(make_section: Callable[[], object]) -> object:
    try:
        return make_section()
    except _SECTION_ERRORS as error:
        reason = str(error) if isinstance(error, LsqctlError) else f"{type(error).__name__}: {error}"
        return {"unavailable": reason}


def _versions_section() -> Sections:
    return {
        "lsqctl": version_line(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": installed_versions(PACKAGES),
    }


def _machine_section() -> Sections:
    cpus = re.search(r"^model name\s*: (.*)$", _read_text(CPU_INFO), re.MULTILINE)
    gpus = [_read_text(path) for path in sorted(NVIDIA_GPUS.glob("*/information"))]
    return {
        "platform": platform.platform(),
        "architecture": platform.machine(),
        "cpu": cpus[1] if cpus else "",
        "cpu_cores": cpu_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [match[1] for text in gpus if (match := re.search(r"Model:\s*(.*)", text))],
        "variables": recorded_variables(),
    }


def _read_text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _settings_section(settings: Settings, sources: Mapping[str, str]) -> Sections:
    return {name: {"value": getattr(settings, name), "from": sources[name]} for name in sources}


def _queue_section(store: Store) -> Sections:
    return {
        "url": store.url,
        "schema": store.schema_version(),
        "runs": {state.value: count for state, count in store.counts().items()},
        "workers": [
            {
                "name": worker.identity.name,
                "device": worker.identity.device,
                "slots": worker.identity.slots,
                "host": worker.identity.host,
                "registered_at": worker.registered_at,
                "seen_at": worker.last_heartbeat_at,
                "gone_at": worker.stopped_at,
                "notice": worker.notice,
            }
            for worker in islice(store.workers(), MAX_WORKERS)
        ],
    }


def _run_sections(store: Store, settings: Settings, run_id: str) -> Sections:
    attempts = store.detail(run_id).run.attempt
    newest = range(max(1, attempts - MAX_LOGS + 1), attempts + 1)
    logs = {n: log_path(settings.run_dir(run_id), n) for n in newest}
    return {
        "run.json": _or_unavailable(lambda: store.detail(run_id)),
        "events.json": _or_unavailable(lambda: store.events(run_id)),
        **{f"attempt-{number}.log": _log_section(path) for number, path in logs.items()},
    }


def _log_section(path: Path) -> str:
    """Return the end of a log, or why there is none."""
    section = _or_unavailable(lambda: log_tail(path))
    if isinstance(section, str):
        return section
    return f"no log here: {path}; it lies on the machine whose worker ran the attempt\n"


def log_tail(path: Path) -> str:
    """Return the last ``MAX_LOG_BYTES`` of a file in whole lines: half a secret is not found."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAX_LOG_BYTES))
        data = file.read(MAX_LOG_BYTES)
    if size > MAX_LOG_BYTES:
        data = data.partition(b"\n")[2]
    return _ANSI_ESCAPE.sub("", data.decode("utf-8", "replace").replace("\r", "\n"))


def last_lines(text: str) -> str:
    """Return the last ``MAX_LOG_LINES`` lines, safe to print."""
    return "".join(f"{clean(line)}\n" for line in text.splitlines()[-MAX_LOG_LINES:])


def strings_under(tree: Any, *keys: str) -> frozenset[str]:
    """Return every string that stands under one of these keys, however deep."""
    if isinstance(tree, list):
        return frozenset().union(*(strings_under(child, *keys) for child in tree))
    if not isinstance(tree, dict):
        return frozenset()
    strings = frozenset(v for k, v in tree.items() if k in keys and isinstance(v, str) and v)
    return strings.union(*(strings_under(child, *keys) for child in tree.values()))
