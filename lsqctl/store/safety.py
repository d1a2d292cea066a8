"""Refuse a place where SQLite would lose data or strangers could write; create the file privately.

POSIX drops *all* of a process's locks on a file when it closes *any* descriptor of it, so an
existing database is only ever looked at by path here, never opened.
"""

from __future__ import annotations

import os
from pathlib import Path

from lsqctl.errors import StoreError

MOUNTS = Path("/proc/mounts")
_NETWORK_FILE_SYSTEMS = frozenset(
    """9p afs beegfs ceph cifs coda davfs fuse glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs
    pvfs2 smb2 smb3 smbfs""".split()
)
# The WAL-reset bug: several writers can corrupt a WAL database. Fixed in 3.51.3, and back-ported.
_WAL_FIXED = (3, 51, 3)
_WAL_BACKPORTS: dict[tuple[int, ...], int] = {(3, 44): 6, (3, 50): 7}


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Return whether this version of SQLite may use WAL with several writers."""
    patch = _WAL_BACKPORTS.get(version[:2])
    return version >= _WAL_FIXED or (patch is not None and version[2] >= patch)


def file_system_type(path: Path, mounts: str) -> str:
    """Return the type of the file system that holds ``path``, by a text like /proc/mounts."""
    best, kind = "", ""
    for line in mounts.splitlines():
        mount_point, this_kind = line.split()[1:3]
        mount_point = mount_point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        covers_path = path.is_relative_to(mount_point)
        if covers_path and len(mount_point) >= len(best):  # a later mount covers an earlier one
            best, kind = mount_point, this_kind
    return kind


def is_network_file_system(kind: str) -> bool:
    """Return whether file locks cannot be trusted on this type of file system."""
    return kind in _NETWORK_FILE_SYSTEMS or (kind.startswith("fuse.") and kind != "fuse.lxcfs")


def prepare_file(path: Path) -> None:
    """Make sure that ``path`` is a database file, or can become one, in a safe folder.

    A missing folder is made with mode 0700, a missing file with 0600; SQLite gives its journal
    the file's mode. Raises StoreError.
    """
    try:
        _make_private_folder(path.parent)
        _check_folder(path.parent)
        if path.is_dir():
            raise StoreError(f"{path} is a folder; name a database file inside it")
        _create_private_file(path)
    except OSError as error:
        raise StoreError(
            f"cannot use the database {path}: {error.strerror or error}; "
            "choose another place with --home or --db"
        ) from error


def _make_private_folder(folder: Path) -> None:
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    for parent in reversed(missing):
        parent.mkdir(mode=0o700, exist_ok=True)


def _check_folder(folder: Path) -> None:
    mounts = MOUNTS.read_text() if MOUNTS.exists() else ""
    kind = file_system_type(folder.resolve(), mounts)
    if is_network_file_system(kind):
        raise StoreError(
            f"{folder} is on a network file system ({kind}), where SQLite's locks are not safe; "
            "use PostgreSQL: --db postgresql+psycopg://USER@HOST/NAME"
        )
    if folder.stat().st_mode & 0o002:
        raise StoreError(
            f"{folder} is writable by everyone: anyone could plant a journal there that SQLite "
            f"would play back into the database; use a private folder, or chmod o-w {folder}"
        )


def _create_private_file(path: Path) -> None:
    if path.exists():
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open(path, flags, 0o600))
    except FileExistsError:
        if path.is_symlink():
            raise
