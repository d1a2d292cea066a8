"""Write a file that the user named: whole or not at all, over nothing that was not meant."""

from __future__ import annotations

import os
from pathlib import Path

from lsqctl.errors import UsageError


def write_output(path: Path, data: bytes, *, force: bool = False) -> int:
    """Write ``data`` to ``path`` and return its length.

    Raises UsageError where a file exists and ``force`` is not given, for a link or a folder, and
    where nothing can be written. A link is never written through.
    """
    check_output(path, force=force)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    return len(data)


def check_output(path: Path, *, force: bool = False) -> None:
    """Raise UsageError where ``path`` must not be written, before anything is computed for it."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UsageError(f"{path} is a link or not a plain file; name another path")
    if path.exists() and not force:
        raise UsageError(f"{path} exists; --force overwrites it")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
