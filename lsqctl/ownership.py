"""Use files only where no other account can have put them: by owner and mode, through no link.

The rule is git's for a repository that is found upward: what is found must belong to the user or
to root, and nobody else may write to it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from lsqctl.errors import StoreError

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_WORKSPACE_ENTRIES = (
    *("lsqctl.db", "lsqctl.db-journal", "lsqctl.db-wal", "lsqctl.db-shm"),
    *(
        "runs",
        "trash",
        "backups",
        "plugins",
        "references.jsonl",
        "cluster",
        "cluster.toml",
        "workspace.toml",
    ),
)


def check_found_workspace(home: Path) -> None:
    """Raise StoreError when another account may have planted or changed a workspace.

    Checked are the folder and all that lsqctl itself writes in it; ``data`` may be shared. For a
    workspace that was found, not named: whoever names one says that it may be trusted.
    """
    check_private(
        (home, *(home / name for name in _WORKSPACE_ENTRIES)),
        advice=f"or trust it by its name: --home {home}",
    )


def check_private(paths: Iterable[Path], *, advice: str) -> None:
    """Raise StoreError for the first path that another account owns or may write to.

    Of a link, both it and what it points to are looked at; what does not exist is passed over.
    """
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if reason := _unsafe_reason(path):
                raise StoreError(f"{path} {reason}, {advice}")


def _unsafe_reason(path: Path) -> str:
    """Return why a path is not to be trusted, and the remedy; empty when it is."""
    for status_of in (os.lstat, os.stat):  # in this order: a link may lead nowhere as yet
        status = status_of(path)
        if status.st_uid not in (0, os.geteuid()):
            return f"belongs to another account (uid {status.st_uid}); use a folder of your own"
    if status.st_mode & _OTHERS_WRITE:
        who = "everyone" if status.st_mode & stat.S_IWOTH else "its group"
        return f"is writable by {who}, who may plant files there; chmod go-w {path}"
    return ""


def is_public(folder: Path) -> bool:
    """Return whether everyone may write to a folder."""
    return bool(folder.stat().st_mode & stat.S_IWOTH)


def check_not_public(folder: Path) -> None:
    """Raise StoreError when everyone may write to a folder, also one that was named."""
    if is_public(folder):
        raise StoreError(
            f"{folder} is writable by everyone: what others plant there would be used as yours; "
            f"chmod o-w {folder}"
        )


def make_private_dir(folder: Path) -> None:
    """Make a folder, and those above it, for this user only.

    Raises StoreError when others may write to it, and OSError.
    """
    make_missing_dirs(folder)
    check_private([folder], advice="or remove it")


def make_missing_dirs(folder: Path) -> None:
    """Make what is missing of a folder and those above it, for this user only; raises OSError."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of a regular file, made for its owner alone where ``flags`` make it.

    Raises OSError for a link, which another file would be reached through, and for a pipe or a
    device, which would be waited for.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a link, which is not followed", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return descriptor


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file.  Raises OSError as ``open_regular`` does."""
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read()


def lock_file(descriptor: int, path: Path, *, wait: bool = False) -> bool:
    """Lock an open file or folder; return False where another process holds it.

    Raises OSError, which says so, where the file system locks none.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        reason = f"its file system locks no files ({str(error.strerror).lower()})"
        raise OSError(error.errno, reason, str(path)) from None
    return True
