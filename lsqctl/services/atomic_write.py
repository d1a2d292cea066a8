"""Write one file that a user named: whole or not at all, over nothing unless told to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lsqctl.errors import UsageError


def check_overwrite(path: Path, *, force: bool = False) -> None:
    """Raise UsageError for a link, for what is no plain file, and, unless forced, for a file."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UsageError(f"{path} is a link or not a plain file; name another path")
    if path.exists() and not force:
        raise UsageError(f"{path} exists; --force overwrites it")


def write_atomic(path: Path, data: bytes, *, force: bool = False, mode: int = 0o666) -> None:
    """Write ``data`` to ``path`` by renaming: a full disk or a crash leaves no half of it.

    ``mode`` is the file's, less what the umask takes away.

    Raises UsageError, in one line, where it cannot.
    """
    with atomic_file(path, force=force, mode=mode) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path, *, force: bool = False, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Yield a file that becomes ``path`` at the end, and is removed where the block fails.

    Raises UsageError as ``write_atomic`` does.
    """
    check_overwrite(path, force=force)
    temporary = path.with_name(f".lsqctl.{os.getpid()}.tmp")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # never through a link that lies in wait
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
