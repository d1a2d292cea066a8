"""One child process and the attempt it executes, as its supervisor sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from lsqctl.run import Claim, EndReason
from lsqctl.worker.launch import Launcher, Pipes, Process
from lsqctl.worker.order import LastWords, Order, log_path
from lsqctl.worker.reasons import MemoryWatch, from_exit_code
from lsqctl.worker.slots import Share

# how long a child may take to save before it is killed for its time limit
SAVING_SECONDS = 120.0


class Child:
    """A running attempt: its process, its pipes, and what was asked of it."""

    def __init__(self, claim: Claim, share: Share, order: Order, launcher: Launcher) -> None:
        self.claim = claim
        self.share = share
        self.order = order
        self.cancelling = False
        self.stopping = False
        self.late = False  # over its time limit
        self.renewed = time.monotonic()  # start of the last renewal that succeeded
        self.started = self.renewed
        self._words: LastWords | None = None
        self._memory = MemoryWatch()
        self._words_fd, words = os.pipe()
        order_fd, self._lifeline = os.pipe()
        try:
            self._process = self._launch(launcher, order_fd, words)
        except OSError:
            os.close(self._lifeline)
            os.close(self._words_fd)
            raise
        finally:
            os.close(order_fd)
            os.close(words)

    def _launch(self, launcher: Launcher, order_fd: int, words: int) -> Process:
        run_dir = Path(self.order.run_dir)
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = log_path(run_dir, self.order.attempt)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(self._lifeline, self.order.to_line().encode())  # less than a pipe holds
            return launcher.launch(Pipes(order_fd, log, words), self.share.environment)
        finally:
            os.close(log)

    def exit_code(self) -> int | None:
        """Return the exit code, or None while it runs."""
        self._memory.sample(self._process.pid)
        return self._process.poll()

    def stop(self) -> None:
        """Ask once for a save and an end."""
        if not self.stopping:
            self.stopping = True
            self._process.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now, with all that it started."""
        self.stopping = True
        self._process.signal(signal.SIGKILL)

    def mind_time(self, now: float) -> None:
        """Stop it when it is over its run's time limit; kill it when saving takes too long too."""
        limit = self.claim.run.time_limit_seconds
        if limit is None or now - self.started < limit:
            return
        if not self.stopping:
            self.late = True
            self.stop()
        elif self.late and now - self.started > limit + SAVING_SECONDS:
            self.kill()

    def _lateness(self) -> str:
        """Say that it was over its time limit, and how it goes on."""
        run = self.claim.run
        return (
            f"over its time limit of {run.time_limit_seconds:g} s; "
            f"`lsqctl runs retry {run.id}` goes on from its checkpoint"
        )

    def last_words(self) -> LastWords:
        """Return why it ended, once it has: its own words, else what its exit code says."""
        if self._words is None:
            words = self._read_words()
            if self.late and words.reason in (EndReason.PREEMPTED, EndReason.INFRA):
                words = LastWords(EndReason.TIMEOUT, self._lateness())
            self._words = words
        return self._words

    def _read_words(self) -> LastWords:
        text = self._drain()
        if text.endswith("\n"):
            return LastWords.from_line(text)
        if self._process.obituary:
            return LastWords(EndReason.INFRA, self._process.obituary)
        log = log_path(Path(self.order.run_dir), self.order.attempt)
        return from_exit_code(self._process.poll() or 0, log, self._memory)

    def _drain(self) -> str:
        """Read what it said, in one piece; what it started may hold the pipe open for longer."""
        os.close(self._lifeline)
        os.set_blocking(self._words_fd, False)
        with contextlib.suppress(BlockingIOError), os.fdopen(self._words_fd, "rb") as pipe:
            return (pipe.read() or b"").decode()
        return ""
