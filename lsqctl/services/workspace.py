"""Open, make and back up the workspace where runs live: a folder and its database."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.atomic_write import inode_hint
from lsqctl.errors import NotFound, StoreError, UnusableDatabase
from lsqctl.ownership import check_not_public, check_private
from lsqctl.run import RUN_ID
from lsqctl.settings import WORKSPACE, Settings, sqlite_path, sqlite_url
from lsqctl.text import pluralize

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.store.maintenance import Backup

_RUN_FOLDER = re.compile(RUN_ID)


def open_workspace(
    settings: Settings, *, create: bool = False, migrate: bool = True, read_only: bool = False
) -> Store:
    """Return the store of the workspace; ``create`` makes both where there are none.

    Raises NotFound where nothing was made yet, rather than answer from an empty database in a
    folder that the user did not mean. ``migrate=False`` raises OlderSchema rather than upgrade,
    and so does ``read_only``, through which nothing can be changed. Raises UnusableDatabase where
    a new database would be made beside folders of runs.
    """
    from lsqctl.store import open_store

    _refuse_lost_database(settings)
    if not create and not workspace_exists(settings):
        path = sqlite_path(settings.db_url)
        raise NotFound(
            f"no workspace here: there is no {path} (looked for {WORKSPACE} in this folder "
            "and those above); `lsqctl submit RECIPE` makes one, --home names another"
        )
    if create:
        create_workspace(settings)
    return open_store(
        settings.db_url,
        lease_seconds=settings.lease_seconds,
        migrate=migrate,
        read_only=read_only,
    )


def _refuse_lost_database(settings: Settings) -> None:
    """Raise UnusableDatabase where there are runs, and their database is gone or empty."""
    path = settings.home / "lsqctl.db"
    if settings.db_url != sqlite_url(path) or (path.exists() and path.stat().st_size > 0):
        return
    folders = run_folders(settings.runs_dir)
    if folders:
        from lsqctl.store.file_checks import list_backups

        what = "is empty" if path.exists() else "is gone"
        raise UnusableDatabase(
            f"the database {path} {what}, and {settings.runs_dir} holds "
            f"{pluralize(len(folders), 'run')}; {list_backups(path)}, or move {settings.runs_dir} "
            "away to begin anew"
        )


def run_folders(runs_dir: Path) -> list[Path]:
    """Return the folders that bear a run's id, sorted; no links."""
    if not runs_dir.is_dir():
        return []
    return sorted(
        path
        for path in runs_dir.iterdir()
        if _RUN_FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    )


def create_workspace(settings: Settings) -> None:
    """Make the workspace's folder, for this user only.

    Raises StoreError where that fails, or another account was faster or may write there.
    """
    is_new = not settings.home.exists()
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.runs_dir.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        reason = f"{error.strerror}{inode_hint(error, settings.home)}"
        raise StoreError(
            f"cannot make the workspace {settings.home}: {reason}; --home names another"
        ) from None
    if is_new:
        check_private((settings.home, settings.runs_dir), advice="or name another with --home")
    check_not_public(settings.runs_dir)


def workspace_exists(settings: Settings) -> bool:
    """Return whether there is a database to read; one behind a URL counts as there."""
    path = sqlite_path(settings.db_url)
    return path is None or path.exists()


def backup_database(
    store: Store, settings: Settings, path: Path | None, *, force: bool = False
) -> Backup:
    """Copy the database, by default to ``backups/lsqctl-DATE-TIME.db`` in the workspace.

    Raises UsageError for PostgreSQL and for a file that exists, StoreError where it fails.
    """
    if path is None:
        name = f"lsqctl-{datetime.now():%Y%m%d-%H%M%S}.db"
        path = settings.home / "backups" / name
    return store.maintenance.backup(path, force=force)
