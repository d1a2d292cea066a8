"""The child: execute one attempt, record its facts under the fence, and end with a plain reason.

``execute`` reads its order from standard input, in a child forked from the warmed parent or in
``python -m lsqctl.worker.execute WORDS``.  It iterates
``training.finetune``, which knows no database, and writes what that yields.  It never decides what
becomes of the run when it fails: it says why (last words, exit code) and the supervisor acts.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from lsqctl.errors import LsqctlError
from lsqctl.failpoint import failpoint
from lsqctl.run import EXIT_REASONS, EndReason, RunDetail
from lsqctl.worker.circumstances import changed_code, circumstances
from lsqctl.worker.order import LastWords, Order
from lsqctl.worker.reasons import noting_memory, one_line, reason_of

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.training.runtime import Job

_PR_SET_PDEATHSIG = 1
_ORPHAN_GRACE_SECONDS = 20.0
_STDIN = 0
EXIT_CODES = {reason: code for code, reason in EXIT_REASONS.items()}


class StopFlag:
    """Becomes true when the attempt should save its state and end."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self) -> bool:
        """Return whether to stop; asked at every step."""
        return self._event.is_set()

    def raise_it(self) -> None:
        """Ask for the stop, from a signal handler or a thread."""
        self._event.set()

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Save and end.  A job's signal may come from its scheduler and from the supervisor."""
        self._event.set()


def main() -> int:
    """Execute in a Python of its own; the supervisor is the parent."""
    return execute(int(sys.argv[1]), None)


def execute(words_pipe: int, parent: int | None) -> int:
    """Execute the order on standard input; return the exit code that names the end reason.

    ``parent`` is the pid of the process that forked this one, None for the supervisor's.
    """
    order = Order.from_line(_read_line(_STDIN))
    stop = StopFlag()
    die_with(parent or order.supervisor_pid)
    signal.signal(signal.SIGTERM, stop.on_signal)
    for number in (signal.SIGINT, signal.SIGUSR1):  # a terminal's, Slurm's: the supervisor's part
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # held back until here by the warmed parent
    threading.Thread(target=_watch_lifeline, args=(stop,), daemon=True).start()
    words = attempt(order, stop)
    if words.message:
        print(f"lsqctl: {words.reason}: {words.message}", flush=True)
    _say(words, words_pipe)
    return EXIT_CODES.get(words.reason, 1)


def attempt(order: Order, stop: StopFlag) -> LastWords:
    """Execute one attempt and return how it ended; nothing that torch raises gets past here."""
    try:
        _record(order, stop)
    except Exception as error:  # the one place: a run may fail in any way that torch can
        reason = reason_of(error)
        if reason is EndReason.CODE:
            traceback.print_exc()
        return LastWords(reason, one_line(error, reason))
    return LastWords(EndReason.COMPLETED, "")


def _record(order: Order, stop: StopFlag) -> None:
    """Run the training and write each fact that it yields."""
    from lsqctl.recipe import load_stored
    from lsqctl.training import finetune
    from lsqctl.worker.recorder import Recorder

    if order.gpus > 1:
        print(f"lsqctl: {order.gpus} GPUs are reserved; this version trains on one", flush=True)
    failpoint("child.started")
    store, detail, inputs = _settled(order, stop)
    try:
        job = _job(order, stop, inputs, store)
        recipe = load_stored(detail.recipe)
        with (
            noting_memory(recipe, order.device),
            Recorder(store, order.lease, run_dir=job.run_dir, stop=stop) as recorder,
        ):
            for note in changed_code(detail.snapshot):
                recorder.record(note)
            for fact in finetune(recipe, job):
                recorder.record(fact)
    finally:
        store.close()


def _settled(order: Order, stop: StopFlag) -> tuple[Store, RunDetail, dict[str, str | Path]]:
    """Return the store, the run and its inputs, once the database holds what the attempt is.

    A short wait for each try: the recorder has patience of its own and must not hold up training.
    """
    from lsqctl.store import open_store
    from lsqctl.worker.inputs import identities, resolve_inputs
    from lsqctl.worker.patience import patiently
    from lsqctl.worker.recorder import PATIENCE_LEASES

    lease, run_dir = order.lease_seconds, Path(order.run_dir)
    found = circumstances(order)

    def settled() -> tuple[Store, RunDetail, dict[str, str | Path]]:
        busy = min(2.0, lease / 3)
        store = open_store(order.db_url, lease_seconds=lease, migrate=False, busy_seconds=busy)
        try:
            detail = store.detail(order.run_id)
            inputs = resolve_inputs(detail, store, Path(order.data_dir), run_dir.parent)
            failpoint("child.before-settle")
            store.repoint(order.lease, run_dir)
            store.settle(order.lease, found | {"inputs": identities(inputs, detail)})
        except LsqctlError:
            store.close()
            raise
        return store, detail, inputs

    done = patiently(settled, seconds=PATIENCE_LEASES * lease, stop=stop)
    failpoint("child.settled")
    return done


def _job(order: Order, stop: StopFlag, inputs: dict[str, str | Path], store: Store) -> Job:
    from lsqctl.training.runtime import Job
    from lsqctl.worker.patience import patiently
    from lsqctl.worker.recorder import PATIENCE_LEASES

    def owning(work: Callable[[], None]) -> None:
        whole = partial(store.while_owned, order.lease, work)
        patiently(whole, seconds=PATIENCE_LEASES * order.lease_seconds, stop=stop)

    return Job(
        run_dir=Path(order.run_dir),
        data_dir=Path(order.data_dir),
        device=order.device,
        threads=order.threads,
        fence=order.fence,
        inputs=inputs,
        stop=stop,
        compile=order.compile,
        recorded={one.sha256 for one in store.checkpoints(order.run_id)},
        owning=owning,
    )


def die_with(parent: int) -> None:
    """Be killed by the kernel when the parent dies, however it dies (Linux only)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above took hold
        os._exit(EXIT_CODES[EndReason.PREEMPTED])


def _watch_lifeline(stop: StopFlag) -> None:
    """Stop when the supervisor closes the pipe; end by force when that takes too long.

    By ``os.read``: a thread that waits in ``sys.stdin`` holds its lock, and a process forked
    meanwhile (a data loader's) would wait for that lock for ever.
    """
    while os.read(_STDIN, 4096):
        pass
    stop.raise_it()
    time.sleep(_ORPHAN_GRACE_SECONDS)
    os._exit(EXIT_CODES[EndReason.PREEMPTED])


def _read_line(fd: int) -> str:
    """Return the first line, read without the buffer of ``sys.stdin``."""
    data = b""
    while not data.endswith(b"\n") and (piece := os.read(fd, 65536)):
        data += piece
    return data.decode()


def _say(words: LastWords, pipe: int) -> None:
    """Send the last words to the supervisor."""
    with os.fdopen(pipe, "w") as stream:
        stream.write(words.to_line())


if __name__ == "__main__":
    sys.exit(main())
