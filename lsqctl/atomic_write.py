"""Write a file whole or not at all, and one that a user named over nothing unless told to.

What a process that is killed leaves of it is found by its name.
"""

from __future__ import annotations

import errno
import math
import os
import re
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from lsqctl.errors import UsageError
from lsqctl.text import format_bytes

STALE_SECONDS = 24 * 3600.0  # untouched for so long, a temporary file is nobody's any more
_ENDING = (signal.SIGTERM, signal.SIGHUP)  # SIGINT raises KeyboardInterrupt
_PREFIX = ".lsqctl."
_TEMPORARY_NAME = re.compile(
    rf"{re.escape(_PREFIX)}[0-9a-f]{{16}}\.tmp(-journal|-wal|-shm)?"  # SQLite's own beside a copy
    r"|\.fetch-[0-9]+-\w+"  # a download of 0.1
)


def temporary_beside(path: Path) -> Path:
    """Return a path in the folder of ``path`` that nobody else uses, to be renamed to it.

    By chance and not by process: processes in two containers may have the same number.
    """
    return path.with_name(f"{_PREFIX}{secrets.token_hex(8)}.tmp")


def stale_temporaries(folder: Path, seconds: float = STALE_SECONDS) -> list[Path]:
    """Return the temporary files and folders in ``folder`` that were not touched for ``seconds``.

    By age and not by process: who writes may be on another machine. Links are none.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if _TEMPORARY_NAME.fullmatch(entry.name) and not entry.is_symlink()
            )
    except OSError:
        return []
    return [folder / name for name in names if is_stale(folder / name, seconds)]


def is_stale(path: Path, seconds: float = STALE_SECONDS) -> bool:
    """Return whether a file, and all in a folder, was not touched for so long."""
    return _last_touched(path) < time.time() - seconds


def _last_touched(path: Path) -> float:
    """Return when a file, or anything in a folder, was written last; inf where that is unknown."""
    try:
        return max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
    except OSError:  # as where whoever wrote it is done
        return math.inf


@contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of ``path``, and is removed where the block fails.

    A full disk, a crash or a signal leaves no half of it. ``mode`` is the file's, less what the
    umask takes away. Raises OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # never through a link that lies in wait
    with half_made(path) as temporary:
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


@contextmanager
def half_made(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` for a file or folder that is to be renamed to it.

    What lies there at the end, or when a signal ends the process, is removed.
    """
    temporary = temporary_beside(path)
    with _removed_at_a_signal(temporary):
        try:
            yield temporary
        finally:
            _remove(temporary)


def _remove(temporary: Path) -> None:
    """Remove what is half made, and SQLite's own files beside a copy."""
    for ending in ("", "-journal", "-wal", "-shm"):
        path = temporary.with_name(f"{temporary.name}{ending}")
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


_half_made: set[tuple[int, Path]] = set()  # by process: a forked one removes nothing of another


@contextmanager
def _removed_at_a_signal(temporary: Path) -> Iterator[None]:
    """Remove a file or folder where a signal ends the process that nobody handles.

    Only the main thread may ask for that; what another thread writes is left as by SIGKILL.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = [one for one in _ENDING if signal.getsignal(one) is signal.SIG_DFL]
    entry = os.getpid(), temporary
    _half_made.add(entry)
    try:
        for one in ending:
            signal.signal(one, _end)
        yield
    finally:
        for one in ending:
            signal.signal(one, signal.SIG_DFL)
        _half_made.discard(entry)


def _end(number: int, _: FrameType | None) -> None:
    """Remove what is half made, and end by the signal as if it had not been handled."""
    for process, path in _half_made:
        if process == os.getpid():
            _remove(path)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def replace_file(path: Path, data: bytes) -> None:
    """Put ``data`` into ``path``, readable by its owner alone.  Raises OSError."""
    with replacing(path) as file:
        file.write(data)


def check_overwrite(path: Path, *, force: bool = False) -> None:
    """Raise UsageError for a link, for what is no plain file, and, unless forced, for a file."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UsageError(f"{path} is a link or not a plain file; name another path")
    if path.exists() and not force:
        raise UsageError(f"{path} exists; --force overwrites it")


def write_atomic(path: Path, data: bytes, *, force: bool = False, mode: int = 0o666) -> None:
    """Write ``data`` to ``path`` as ``replacing`` does, over no file unless forced.

    Raises UsageError, in one line, where it cannot.
    """
    with atomic_file(path, force=force, mode=mode) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path, *, force: bool = False, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Yield a file that becomes ``path`` at the end, and is removed where the block fails.

    Raises UsageError as ``write_atomic`` does. An OSError of the block that names a file of
    its own is raised as it is: it is not this file that cannot be written.
    """
    check_overwrite(path, force=force)
    try:
        with replacing(path, mode) as file:
            yield file
    except OSError as error:
        named = error.filename
        if named is not None and not (isinstance(named, str) and _is_temporary(Path(named), path)):
            raise
        reason = f"{error.strerror or error}{inode_hint(error, path)}"
        raise UsageError(f"cannot write {path}: {reason}") from None


def _is_temporary(file: Path, path: Path) -> bool:
    return file == path or (file.parent == path.parent and file.name.startswith(_PREFIX))


def is_out_of_inodes(folder: Path) -> bool:
    """Return whether no file can be made, however small; some file systems count none."""
    status = os.statvfs(folder)
    return status.f_files > 0 and status.f_favail == 0


def inode_hint(error: OSError, path: Path) -> str:
    """Return what "no space left" does not say where a file system lacks inodes; else nothing."""
    if error.errno != errno.ENOSPC:  # of another fault, as a name too long, `path` cannot be asked
        return ""
    folder = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not is_out_of_inodes(folder):
        return ""
    free = format_bytes(shutil.disk_usage(folder).free)
    return f" (no inode is free, though {free} are; remove files, however small)"
