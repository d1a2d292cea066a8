"""Words to a reader that is gone (a closed terminal, the end of a pipe) are no reason to stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


class _BrokenPipeSafeStream:
    """A text stream that, once its reader is gone, writes to nowhere instead of raising."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._redirect_to_devnull()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._redirect_to_devnull()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _redirect_to_devnull(self) -> None:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self._stream.fileno())
        os.close(devnull)


@contextmanager
def ignore_broken_pipes() -> Iterator[None]:
    """Let nothing that is said on stdout or stderr end what runs inside."""
    original = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _BrokenPipeSafeStream(stream)) for stream in original)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = original
