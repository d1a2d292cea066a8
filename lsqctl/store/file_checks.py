"""A database's file on the disk: whether it is the same one, damaged or locked, and its backups.

What a path names may be moved away or copied over while it is open: device and inode tell.
"""

from __future__ import annotations

import os
import re
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


LOCKS = Path("/proc/locks")
# the bytes that SQLite locks: in the file itself, and the writer's in the shared memory of a WAL
_LOCK_BYTES = range(0x40000000, 0x40000200)
_WAL_WRITE_BYTE = 120
_LOCK_LINE = re.compile(r"\d+: \w+ +\w+ +(\w+) +(\d+) \S+:(\d+) (\d+) \d+")


def lock_holders(path: Path) -> str:
    """Return which other processes hold SQLite's lock now, and how they let go of it.

    Nothing where Linux does not tell: elsewhere, in another container, or once it was released.
    """
    try:
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return ""
    shared_memory = file_id(path.with_name(f"{path.name}-shm"))
    known = file_id(path)
    found = (_lock_holder(line, known, shared_memory) for line in lines)
    holders = sorted(set(filter(None, found)) - {os.getpid()})
    stopped = [pid for pid in holders if _is_stopped(pid)]
    if stopped:
        numbers = " ".join(map(str, stopped))
        return (
            f"process {numbers} holds it and is stopped: `kill -CONT {numbers}` lets it go on, "
            f"`kill -KILL {numbers}` ends it"
        )
    return f"held by process {', '.join(map(str, holders))}; try again" if holders else ""


def _lock_holder(line: str, file: FileId | None, shared_memory: FileId | None) -> int | None:
    """Return the process of a line of /proc/locks that says that it keeps others from writing."""
    found = _LOCK_LINE.fullmatch(line)
    if found is None:
        return None
    kind, pid, inode, first_byte = found[1], int(found[2]), int(found[3]), int(found[4])
    if shared_memory is not None:  # whoever has a WAL open holds the file itself, and harms nobody
        blocks = (inode, first_byte, kind) == (shared_memory[1], _WAL_WRITE_BYTE, "WRITE")
    else:
        blocks = file is not None and inode == file[1] and first_byte in _LOCK_BYTES
    return pid if blocks and pid > 0 else None


def _is_stopped(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] in ("T", "t")
