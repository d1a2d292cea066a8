"""Look the installation and the workspace over; every finding comes with its fix.

Nothing is changed: an older database is not upgraded, no worker is reaped, no file removed.
"""

from __future__ import annotations

from collections.abc import Iterator

from lsqctl.api.doctor_machine import check_disks, check_machine
from lsqctl.api.doctor_store import check_database
from lsqctl.api.findings import Finding
from lsqctl.api.workspace import workspace_exists
from lsqctl.errors import did_you_mean
from lsqctl.settings import VARIABLES, Settings, unknown_variables

__all__ = ["Finding", "diagnose"]


def diagnose(settings: Settings) -> list[Finding]:
    """Return findings on Python, libraries, devices, disk, data, the database and the queue."""
    return [*check_machine(settings), *_check_variables(), *_check_data_folder(settings), *_check_workspace(settings)]


def _check_workspace(settings: Settings) -> Iterator[Finding]:
    if not workspace_exists(settings):
        yield from check_disks(settings)
        yield Finding("ok", f"no workspace yet; the first `lsqctl submit` makes {settings.home}")
        return
    database_findings = list(check_database(settings))
    yield from check_disks(settings)
    yield from database_findings


def _check_variables() -> Iterator[Finding]:
    for name in unknown_variables():
        yield Finding(
            "warning",
            f"the variable {name} is set, and nothing reads it{did_you_mean(name, VARIABLES)}",
            f"unset {name}; known are {', '.join(VARIABLES)}",
        )


def _check_data_folder(settings: Settings) -> Iterator[Finding]:
    if settings.data_dir.is_dir():
        yield Finding("ok", f"data folder {settings.data_dir}")
    elif settings.data_dir_explicit:
        yield Finding(
            "warning",
            f"--data-dir or LSQCTL_DATA names {settings.data_dir}, and there is no such folder",
            "name another, or fill it: lsqctl data fetch cifar10",
        )
    else:
        yield Finding("ok", f"no data folder {settings.data_dir} yet; only digits need none")
