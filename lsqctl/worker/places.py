"""A worker's slots as they are now: what is free, what is left alone, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lsqctl.worker.gpus import Watch, is_gpu_error
from lsqctl.worker.order import LastWords
from lsqctl.worker.slots import Pool, Share, Slot


class Places:
    """Holds the pool, and keeps it in step with what the GPUs' watch says."""

    def __init__(self, slots: Sequence[Slot], watch: Watch | None = None) -> None:
        self.pool = Pool(tuple(slots))
        self.notice = ""
        self._watch = watch

    @property
    def threads(self) -> int:
        """What an attempt in one slot computes with."""
        return self.pool.slots[0].threads

    def look(self, changed: Callable[[str], object] = lambda notice: None) -> None:
        """Look again at the GPUs that we do not use; say so when the notice has changed."""
        if self._watch is None:
            return
        shut = self._watch.shut(self.pool.untaken_gpus)
        self.pool = self.pool.shutting(shut)
        notice = self._watch.notice(shut)
        if notice != self.notice:
            self.notice = notice
            changed(notice)

    def take(self, gpus: int) -> Share:
        """Take the slots for an attempt.  Raises ValueError when there is no room."""
        share, self.pool = self.pool.take(gpus)
        return share

    def give_back(self, share: Share, words: LastWords) -> None:
        """Free the slots of an attempt that has ended; a GPU that failed it rests."""
        self.pool = self.pool.give_back(share)
        if self._watch is not None and is_gpu_error(words.reason, words.message):
            self._watch.rest(share.gpus, words.message)
