"""A file that hashes what it writes and is on the disk when ``sync`` returns."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class DurableFile:
    """A new file, readable by its owner alone, for ``torch.save`` and for bytes.

    ``write_error`` keeps a write's first error, for torch turns it into a RuntimeError without a
    number. Raises FileExistsError rather than follow a link or overwrite.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb")
        self._hash = hashlib.sha256()
        self.size = 0
        self.write_error: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
        except OSError:  # what a failed write left buffered; the first error counts
            if kind is None:
                raise

    def write(self, data: bytes | memoryview) -> int:
        """Write all of ``data``."""
        try:
            written = self._file.write(data)
        except OSError as error:
            self.write_error = self.write_error or error
            raise
        self._hash.update(data)
        self.size += written
        return written

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._file.flush()

    def sync(self) -> None:
        """Return when the bytes are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def hexdigest(self) -> str:
        """Return the sha256 of what was written."""
        return self._hash.hexdigest()


def fsync_dir(folder: Path) -> None:
    """Return when the folder's entries are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
