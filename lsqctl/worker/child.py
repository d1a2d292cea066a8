"""One child process and the attempt it executes, as its supervisor sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lsqctl.run import Claim
from lsqctl.settings import child_environment
from lsqctl.worker.order import LastWords, Order, log_path
from lsqctl.worker.reasons import MemoryWatch, from_exit_code
from lsqctl.worker.slots import Slot


class Child:
    """A running attempt: its process, its pipes, and what was asked of it."""

    def __init__(self, claim: Claim, slot: Slot, order: Order) -> None:
        self.claim = claim
        self.slot = slot
        self.order = order
        self.cancelling = False
        self.stopping = False
        self.renewed = time.monotonic()  # start of the last renewal that succeeded
        self.started = self.renewed
        self._words: LastWords | None = None
        self._words_fd, write_end = os.pipe()
        self._process = self._spawn(write_end)
        os.close(write_end)
        self._memory = MemoryWatch(self._process.pid)

    def _spawn(self, write_end: int) -> subprocess.Popen[str]:
        run_dir = Path(self.order.run_dir)
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = os.open(
            log_path(run_dir, self.order.attempt), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "lsqctl.worker.execute", str(write_end)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(write_end,),
                env=child_environment({**self.slot.environment, "PYTHONUNBUFFERED": "1"}),
                start_new_session=True,  # a terminal's Ctrl-C reaches the supervisor alone
                text=True,
            )
        finally:
            os.close(log)
        if process.stdin is None:
            raise OSError("the child has no standard input")
        with contextlib.suppress(BrokenPipeError):  # it died at once; its exit code will tell
            process.stdin.write(self.order.to_line())
            process.stdin.flush()
        return process

    @property
    def pid(self) -> int:
        """The process's id, which is also its group's."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return the exit code, or None while it runs."""
        self._memory.sample()
        return self._process.poll()

    def stop(self) -> None:
        """Ask once for a save and an end."""
        if not self.stopping:
            self.stopping = True
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now, with all that it started."""
        self.stopping = True
        self._signal(signal.SIGKILL)

    def last_words(self) -> LastWords:
        """Return why it ended, once it has: its own words, else what its exit code says."""
        if self._words is None:
            self._words = self._read_words()
        return self._words

    def _read_words(self) -> LastWords:
        text = self._drain()
        if text.endswith("\n"):
            return LastWords.from_line(text)
        log = log_path(Path(self.order.run_dir), self.order.attempt)
        return from_exit_code(self._process.returncode, log, self._memory)

    def _drain(self) -> str:
        if self._process.stdin is not None:
            self._process.stdin.close()
        with os.fdopen(self._words_fd) as pipe:
            return pipe.read()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
