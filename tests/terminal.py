"""Commands in a real terminal: a pseudo-terminal of so many columns and lines."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping

from tests.conftest import WARM, CommandLine
from tests.warm import Streams, WarmProcess


class Terminal:
    """A pseudo-terminal: ``outer`` reads the screen and writes keys, a process has ``inner``."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.outer, self.inner = pty.openpty()
        fcntl.ioctl(self.inner, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._open = {self.outer, self.inner}

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        for end in list(self._open):
            self._close(end)

    def leave(self) -> None:
        """Let only the process have the inner end, so that the screen ends when it does."""
        self._close(self.inner)

    def close(self) -> None:
        """Be gone, as a window that is closed."""
        self._close(self.outer)

    def screen(self) -> str:
        """Return all that is drawn until nobody has the terminal any more."""
        pieces = []
        with contextlib.suppress(OSError):  # the other end was closed: the command has ended
            while piece := os.read(self.outer, 65536):
                pieces.append(piece)
        return b"".join(pieces).decode(errors="replace")

    def _close(self, end: int) -> None:
        self._open.discard(end)
        os.close(end)


def start_there(
    line: CommandLine,
    words: list[str],
    streams: Streams,
    *,
    controls: bool = False,
    environment: Mapping[str, str] = {"TERM": "xterm-256color"},
) -> subprocess.Popen[bytes] | WarmProcess:
    """Start ``lsqctl`` with these standard streams; a terminal as stdin may control it."""
    env = line.environment | environment
    if not line.cold and not line.injected and WARM.can_start(env):
        return WARM.start(words, line.folder, env, streams=streams, controls=controls)

    def control() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    return subprocess.Popen(
        [sys.executable, "-m", "lsqctl", *words],
        cwd=line.folder,
        env=env,
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        preexec_fn=control if controls else None,  # noqa: PLW1509 (no thread holds a lock here)
    )
