"""Back the database up into the workspace, or wherever one says."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.store.backup import Backup


def backup_database(store: Store, settings: Settings, path: Path | None, *, force: bool = False) -> Backup:
    """Copy the database, by default to ``backups/lsqctl-DATE-TIME.db`` in the workspace.

    Raises UsageError for PostgreSQL and for a file that exists, StoreError where it fails.
    """
    if path is None:
        name = f"lsqctl-{datetime.now():%Y%m%d-%H%M%S}.db"
        path = settings.home / "backups" / name
    return store.backup(path, force=force)
