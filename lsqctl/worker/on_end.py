"""Hooks of a workspace at the end of each run: processes beside the supervisor, which never waits.

A hook gets the run as JSON on its standard input. One that takes longer than its time is ended, and
that is said. What one prints stands in ``on_end.log`` of the run's folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.ownership import open_regular
from lsqctl.run import ACTIVE_STATES, RECORDED, Run
from lsqctl.settings import Settings, module_command
from lsqctl.training.checkpoint_files import remove_checkpoints, temporary_dirs
from lsqctl.worker.identity import is_dead
from lsqctl.worker.workspace_file import OnEnd

if TYPE_CHECKING:
    from lsqctl.store import Store

_LOG = "on_end.log"
_WORD = re.compile(r"\{(\w+)\}")
_POLL_SECONDS = 0.05


@dataclass(slots=True)
class _Hook:
    name: str
    process: subprocess.Popen[bytes]
    deadline: float


class EndHooks:
    """Starts the hooks of runs that have ended, and ends those that take too long."""

    def __init__(
        self,
        on_end: OnEnd,
        *,
        notify: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_end, self._notify, self._clock = on_end, notify, clock
        self._hooks: list[_Hook] = []

    def reap(self, store: Store, settings: Settings) -> None:
        """Take back the runs of dead workers, say so, and start the hooks of those that ended."""
        reaped = store.queue.reap(is_dead=is_dead)
        for run in reaped:
            self._notify(f"{run.name} ({run.id}): its worker was lost; now {run.state}")
            if run.origin != RECORDED:
                self.ended(run, settings.run_dir(run.id))
        for run in reaped:
            _remove_half_written(store, run.id, settings.run_dir(run.id))

    def ended(self, run: Run, run_dir: Path) -> None:
        """Start the hooks of a run; nothing for one that is only requeued.  Never raises."""
        if run.state in ACTIVE_STATES:
            return
        message = end_message(run)
        body = json.dumps(message).encode()
        if self._on_end.command:
            words = [_filled(word, message) for word in self._on_end.command]
            self._start(f"on_end command of {run.id}", words, body, run_dir)
        if self._on_end.webhook:
            words = list(module_command("lsqctl.worker.on_end"))
            body = f"{self._on_end.webhook}\n".encode() + body  # a URL may hold a secret
            self._start(f"webhook of {run.id}", words, body, run_dir)

    def _start(self, name: str, words: list[str], body: bytes, run_dir: Path) -> None:
        try:
            run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # a lost one may have none yet
            log = open_regular(run_dir / _LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            with open(log, "wb") as output, tempfile.TemporaryFile() as stdin:
                stdin.write(body)  # which may be more than a pipe holds
                stdin.seek(0)
                process = subprocess.Popen(
                    words, stdin=stdin, stdout=output, stderr=output, start_new_session=True
                )
        except OSError as error:
            self._notify(f"{name} did not start: {error}")
            return
        deadline = self._clock() + self._on_end.timeout_seconds
        self._hooks.append(_Hook(name, process, deadline))

    def tick(self) -> None:
        """Say of hooks that have failed, and end those that take too long."""
        for hook in list(self._hooks):
            code = hook.process.poll()
            if code is None and self._clock() < hook.deadline:
                continue
            self._hooks.remove(hook)
            if code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(hook.process.pid, signal.SIGKILL)
                hook.process.wait()
                seconds = self._on_end.timeout_seconds
                self._notify(f"{hook.name} took longer than {seconds:g} s and was ended")
            elif code:
                self._notify(f"{hook.name} failed with exit code {code}; see {_LOG} of the run")

    def close(self) -> None:
        """Wait for the hooks that are left, each until its time is over."""
        while self._hooks:
            self.tick()
            time.sleep(_POLL_SECONDS)


def _remove_half_written(store: Store, run_id: str, run_dir: Path) -> None:
    """Remove the checkpoints that dead attempts were writing: no attempt may come after them."""
    fences = temporary_dirs(run_dir)  # before the row: what an attempt begins meanwhile stays
    if fences and (retention := store.checkpoints.retention([run_id]).get(run_id)):
        remove_checkpoints(path for path, fence in fences.items() if fence != retention.fence)


def end_message(run: Run) -> Mapping[str, object]:
    """Return what a hook is told of a run; ``text`` is one line for people."""
    top1 = "" if run.top1 is None else f", Top-1 {run.top1:.2f} %"
    why = f" ({run.message})" if run.message else ""
    return {
        "text": f"{run.name} seed {run.seed} {run.state}{top1}{why}",
        "id": run.id,
        "name": run.name,
        "seed": run.seed,
        "state": run.state,
        "reason": run.reason,
        "message": run.message,
        "sweep": run.sweep,
        "top1": run.top1,
    }


def _filled(word: str, message: Mapping[str, object]) -> str:
    """Return a word with ``{name}`` and the like replaced; what is no key stays as it is."""
    return _WORD.sub(lambda match: str(message.get(match[1], match[0])), word)


def post() -> int:
    """Send standard input, but for its first line, to the URL in that; return an exit code."""
    url, _, body = sys.stdin.buffer.read().partition(b"\n")
    headers = {"Content-Type": "application/json", "User-Agent": "lsqctl"}
    try:  # workspace_file.py lets through http and https alone
        request = urllib.request.Request(url.decode(), data=body, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request):  # noqa: S310
            return 0
    except (OSError, ValueError) as error:
        sys.stdout.write(f"webhook: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(post())
