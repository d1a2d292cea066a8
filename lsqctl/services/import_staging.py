"""Where an import lays folders out before their rows are added: locked, and swept where cut off.

On a file system without locks nobody can tell at once: there it is cut off a day after its last
sign of life.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lsqctl.atomic_write import is_stale
from lsqctl.ownership import lock_file
from lsqctl.services.removal import remove_tree

_STAGING = ".import-"  # and a number by chance


@contextmanager
def staging_folder(runs_dir: Path) -> Iterator[Path]:
    """Make a folder to lay runs out in, with a lock of this process; it is removed at the end.

    What imports that were cut off have left is removed first.
    """
    runs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _one_at_a_time(runs_dir):  # between mkdir and lock it would be taken for abandoned
        for folder in _unlocked_folders(runs_dir):
            remove_tree(folder)
        staging = runs_dir / f"{_STAGING}{secrets.token_hex(8)}"
        staging.mkdir(mode=0o700)
        lock = None
        with suppress(OSError):  # a file system without locks
            lock = _lock(staging)
    try:
        yield staging
    finally:
        remove_tree(staging)
        if lock is not None:
            os.close(lock)


def abandoned_imports(runs_dir: Path) -> list[Path]:
    """Return what imports that were cut off have laid out; one at work holds its folder's lock."""
    if not runs_dir.is_dir():
        return []
    with _one_at_a_time(runs_dir):
        return _unlocked_folders(runs_dir)


@contextmanager
def _one_at_a_time(runs_dir: Path) -> Iterator[None]:
    """Let one process at a time begin an import, or tell which ones were cut off."""
    descriptor = os.open(runs_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system may lock no folders, as NFS
            lock_file(descriptor, runs_dir, wait=True)
        yield
    finally:
        os.close(descriptor)


def _unlocked_folders(runs_dir: Path) -> list[Path]:
    return [folder for folder in sorted(runs_dir.glob(f"{_STAGING}*")) if _is_abandoned(folder)]


def _is_abandoned(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():  # not ours, or just removed
        return False
    try:
        lock = _lock(folder)
    except OSError:
        return is_stale(folder)
    if lock is not None:
        os.close(lock)
    return lock is not None


def _lock(folder: Path) -> int | None:
    """Return a descriptor that holds a folder's lock, None where another process holds it.

    Raises OSError where a file system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if lock_file(descriptor, folder):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
