"""What `doctor` reports, and its checks of this machine: Python, libraries, devices, memory, disks.

Nothing heavy is imported: versions are read from the packages' own files.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

from lsqctl.ownership import is_public
from lsqctl.settings import Settings
from lsqctl.store.engine import MOUNTS, file_system_type, is_network_file_system, wal_is_safe
from lsqctl.text import format_bytes, pluralize
from lsqctl.worker.slots import cpu_cores

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing examined. ``fix`` is never empty where the level is not ok."""

    level: Level
    message: str
    fix: str = ""

    def __post_init__(self) -> None:
        if self.level != "ok" and not self.fix:
            raise ValueError(f"a finding that is not ok needs a fix: {self.message}")


LOW_DISK_BYTES = 2 * 1024**3
LOW_SHM_BYTES = 256 * 1024**2
SHM = Path("/dev/shm")  # noqa: S108 (looked at, never written)
DEVICES = Path("/dev")
DRIVER_VERSION = Path("/proc/driver/nvidia/version")
# The first driver that runs programs of each generation of CUDA (NVIDIA, CUDA Compatibility).
_FIRST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 65)}


def check_machine(settings: Settings) -> Iterator[Finding]:
    """Yield findings on Python, the libraries, the devices and shared memory."""
    yield from _check_python(settings)
    yield from _check_libraries()
    yield from _check_devices()
    yield from _check_shared_memory()


def _check_python(settings: Settings) -> Iterator[Finding]:
    yield Finding("ok", f"Python {sys.version.split()[0]}")
    if not settings.db_url.startswith("sqlite"):
        return
    version = sqlite3.sqlite_version
    if wal_is_safe(sqlite3.sqlite_version_info):
        yield Finding("ok", f"SQLite {version}, with a write-ahead log")
    else:
        yield Finding(
            "ok",
            f"SQLite {version} has the WAL-reset bug; the journal is PERSIST, which is safe",
            "nothing to do; SQLite 3.51.3, 3.50.7 or 3.44.6 would let readers and a writer overlap",
        )


def _check_libraries() -> Iterator[Finding]:
    versions = {}
    for name in ("torch", "torchvision"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding("error", f"{name} is not installed", f"pip install {name}")
    if versions:
        yield Finding("ok", ", ".join(f"{name} {version}" for name, version in versions.items()))
    if len(versions) == 2:
        yield from _check_torchvision(versions["torch"])


def _check_torchvision(torch: str) -> Iterator[Finding]:
    """Find a torchvision that was made for another torch: importing it would fail."""
    requirement = next(
        (r for r in metadata.requires("torchvision") or () if r.startswith("torch ")), ""
    )
    match = re.search(r"(==|>=)\s*([\d.]+)", requirement)
    if match is None:
        return
    installed, required = _version_numbers(torch), _version_numbers(match[2])
    if installed < required or (match[1] == "==" and installed[: len(required)] != required):
        yield Finding(
            "error",
            f"torchvision wants torch {match[1]}{match[2]}, and torch is {torch}",
            "pip install --upgrade torch torchvision, both from the same place",
        )


def _check_devices() -> Iterator[Finding]:
    gpus = sorted(DEVICES.glob("nvidia[0-9]*"))
    gpu_text = pluralize(len(gpus), "GPU") if gpus else "no GPU; runs use the CPU"
    yield Finding("ok", f"{cpu_cores()} CPU cores, {gpu_text}")
    if gpus:
        yield from _check_cuda()


def _check_cuda() -> Iterator[Finding]:
    """Compare what torch was built for with the driver, without importing torch."""
    built = _cuda_of_torch()
    if built is None:
        yield Finding(
            "error",
            "there is a GPU, and this torch is built without CUDA",
            "pip install --force-reinstall torch torchvision, from an index with CUDA builds",
        )
        return
    driver = _driver_version()
    needed = _FIRST_DRIVER.get(_version_numbers(built)[0])
    if driver and needed and driver < needed:
        yield Finding(
            "error",
            f"torch is built for CUDA {built}, and the driver is {'.'.join(map(str, driver))}",
            f"update the NVIDIA driver to {needed[0]}.{needed[1]} or later, or install a torch "
            "for an older CUDA",
        )
    else:
        yield Finding("ok", f"torch is built for CUDA {built}")


def _cuda_of_torch() -> str | None:
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = (Path(spec.origin).parent / "version.py").read_text()
    match = re.search(r"^cuda\b.*=\s*'([\d.]+)'", text, re.MULTILINE)
    return match[1] if match else None


def _driver_version() -> tuple[int, ...]:
    if not DRIVER_VERSION.exists():
        return ()
    match = re.search(r"Kernel Module\D*?(\d+\.\d+)", DRIVER_VERSION.read_text())
    return _version_numbers(match[1]) if match else ()


def _version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def _check_shared_memory() -> Iterator[Finding]:
    if not SHM.is_dir():
        return
    size = shutil.disk_usage(SHM).total
    message = f"{format_bytes(size)} of shared memory at {SHM}"
    if size < LOW_SHM_BYTES:
        yield Finding(
            "warning",
            f"{message}: data loaders with worker processes may run out of it",
            "docker run --ipc=host or --shm-size=1g; or work with more --slots, "
            "which leaves each run fewer processes",
        )
    else:
        yield Finding("ok", message)


def check_disks(settings: Settings) -> Iterator[Finding]:
    """Yield findings on where the workspace lies: rights, room, kind of file system."""
    folder = next(path for path in (settings.home, *settings.home.parents) if path.is_dir())
    if not os.access(folder, os.W_OK):
        yield Finding(
            "error",
            f"{folder} is not writable",
            f"chmod u+w {folder}, or name another workspace with --home",
        )
    if folder == settings.home and is_public(folder):
        yield Finding(
            "error",
            f"the workspace {folder} is writable by everyone",
            f"chmod o-w {folder}",
        )
    yield from _check_file_system(settings, folder)
    yield from _check_free_space(folder)


def _check_file_system(settings: Settings, folder: Path) -> Iterator[Finding]:
    kind = file_system_type(folder.resolve(), MOUNTS.read_text() if MOUNTS.exists() else "")
    if not is_network_file_system(kind):
        return
    if settings.db_url.startswith("sqlite"):
        yield Finding(
            "error",
            f"{folder} is on a network file system ({kind}), where SQLite is not safe",
            "use PostgreSQL: --db postgresql+psycopg://USER@HOST/NAME; or --home on a local disk",
        )
    else:
        yield Finding("ok", f"the workspace is on a network file system ({kind})")


def _check_free_space(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    message = f"{format_bytes(free)} free at {folder}"
    if free < LOW_DISK_BYTES:
        yield Finding("warning", message, "lsqctl runs gc shows what can go; or --home elsewhere")
    else:
        yield Finding("ok", message)
