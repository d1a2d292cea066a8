"""Look the installation and the workspace over; every finding comes with its fix."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from lsqctl.api.workspace import open_workspace, workspace_exists
from lsqctl.errors import LsqctlError
from lsqctl.run import RunState
from lsqctl.settings import Settings

Level = Literal["ok", "warning", "error"]
_LOW_DISK_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: how it stands, and what to do where it does not stand well."""

    level: Level
    what: str
    fix: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Return findings on Python, libraries, devices, disk, data and the database."""
    return [
        *_python(),
        *_devices(),
        *_disk(settings.home),
        *_data(settings),
        *_database(settings),
    ]


def _python() -> Iterator[Finding]:
    yield Finding("ok", f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")
    for name in ("torch", "torchvision"):
        try:
            yield Finding("ok", f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            yield Finding("error", f"{name} is not installed", f"pip install {name}")


def _devices() -> Iterator[Finding]:
    from lsqctl.worker.gpus import choose, open_eyes
    from lsqctl.worker.slots import cpu_cores

    eyes = open_eyes()
    gpus, watch = choose("auto", eyes)
    told = f"{len(gpus)} GPU(s)" if gpus else "no GPU; runs use the CPU"
    yield Finding("ok", f"{cpu_cores()} CPU cores, {told}")
    if gpus and eyes.blind:
        yield Finding("warning", "a busy GPU cannot be told from an idle one", eyes.blind)
    if left := watch.notice(watch.shut(gpus)):
        yield Finding("warning", left, "a worker leaves it alone; --gpus all takes it all the same")


def _disk(home: Path) -> Iterator[Finding]:
    folder = next(one for one in (home, *home.parents) if one.is_dir())
    if not os.access(folder, os.W_OK):
        yield Finding("error", f"{folder} is not writable", "--home names another workspace")
    free = shutil.disk_usage(folder).free
    told = f"{free / 1e9:.1f} GB free at {folder}"
    if free < _LOW_DISK_BYTES:
        yield Finding("warning", told, "remove old runs, or --home on a larger disk")
    else:
        yield Finding("ok", told)


def _data(settings: Settings) -> Iterator[Finding]:
    if settings.data_dir.is_dir():
        yield Finding("ok", f"data folder {settings.data_dir}")
    else:
        yield Finding(
            "ok",
            f"no data folder {settings.data_dir} yet; only digits need none",
        )


def _database(settings: Settings) -> Iterator[Finding]:
    if not workspace_exists(settings):
        yield Finding("ok", f"no workspace yet; the first `lsqctl submit` makes {settings.home}")
        return
    try:
        store = open_workspace(settings)
    except LsqctlError as error:
        yield Finding("error", str(error), "see the message")
        return
    try:
        yield Finding("ok", f"database {store.url}, schema {store.schema_version()}")
        for text in store.check():
            yield Finding("error", text, "lsqctl db check; restore a backup if rows are lost")
        yield from _runs(store.counts())
    finally:
        store.close()


def _runs(counts: dict[RunState, int]) -> Iterator[Finding]:
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    yield Finding("ok", f"runs: {told or 'none yet'}")
    if counts.get(RunState.QUEUED) and not counts.get(RunState.RUNNING):
        yield Finding("warning", "runs are queued and none is running", "lsqctl worker")
    if counts.get(RunState.FAILED):
        yield Finding(
            "warning", f"{counts[RunState.FAILED]} failed", "lsqctl runs ls --state failed"
        )
