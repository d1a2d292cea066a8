"""A database's file on the disk: whether it is the same one, or damaged, and its backups.

What a path names may be moved away or copied over while it is open: device and inode tell.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

FileId = tuple[int, int]  # device and inode

_MAX_BACKUPS_SHOWN = 3
_DAMAGE_CODES = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_SHORT_READ}
)


def file_id(path: Path) -> FileId | None:
    """Return what tells a file from another of the same name; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def damage(error: BaseException | None) -> str:
    """Return SQLite's words when an error says that the file is damaged or none of its own."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None or not {code, code & 0xFF} & _DAMAGE_CODES:
        return ""
    return str(error)


def list_backups(path: Path) -> str:
    """Return what to restore a database from: copies that lsqctl made, the newest first."""
    copies = [*path.parent.glob("backups/*.db"), *path.parent.glob(f"{path.name}.schema-*.bak")]
    if not copies:
        return "there is no backup beside it (`lsqctl db backup` makes one)"
    newest = sorted(copies, key=lambda copy: copy.stat().st_mtime, reverse=True)
    return f"restore a backup: {', '.join(map(str, newest[:_MAX_BACKUPS_SHOWN]))}"
