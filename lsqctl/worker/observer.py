"""What a supervisor tells whoever watches it work."""

from __future__ import annotations

from typing import Protocol

from lsqctl.run import Run
from lsqctl.worker.order import LastWords
from lsqctl.worker.slots import Share


class Observer(Protocol):
    """Who watches a supervisor: a terminal, a log, a test."""

    def started(self, run: Run, share: Share) -> None:
        """An attempt begins."""

    def ended(self, run: Run, words: LastWords) -> None:
        """An attempt ended; ``run`` is as the store has it now."""

    def said(self, text: str) -> None:
        """Something a person should know."""

    def tick(self) -> None:
        """A moment has passed; called about ten times a second."""
