"""What becomes of a run when its child has ended: one fenced call of the Store decides."""

from __future__ import annotations

from pathlib import Path

from lsqctl.errors import LeaseLost
from lsqctl.failpoint import failpoint
from lsqctl.run import EndReason
from lsqctl.store import Store
from lsqctl.worker.child import Child
from lsqctl.worker.order import LastWords
from lsqctl.worker.spool import take_in


def settle(store: Store, child: Child) -> LastWords:
    """Fail, give back or leave the run of a child that has ended; return why it ended.

    Raises StoreError while the database is away: then nothing was done.
    """
    words = child.last_words()
    failpoint("worker.child-ended")
    if words.reason is EndReason.COMPLETED:
        return words
    try:
        take_in(store, child.claim.lease, Path(child.order.run_dir))
        _end(store, child, words)
    except LeaseLost:
        return LastWords(EndReason.LOST, "another attempt owns the run; nothing was changed")
    return words


def _end(store: Store, child: Child, words: LastWords) -> None:
    lease = child.claim.lease
    stopped = child.stopping and words.reason is EndReason.INFRA
    if child.cancelling:
        store.fail(lease, EndReason.CANCELLED, "cancelled by request")
    elif stopped or words.reason is EndReason.PREEMPTED:
        failpoint("worker.before-release")
        store.release(lease)
    else:
        store.fail(lease, words.reason, words.message)
