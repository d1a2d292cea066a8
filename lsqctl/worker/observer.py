"""What a supervisor tells whoever watches it work."""

from __future__ import annotations

from typing import Protocol

from lsqctl.run import Run
from lsqctl.worker.order import ExitReport
from lsqctl.worker.slots import Allocation


class Observer(Protocol):
    """Who watches a supervisor: a terminal, a log, a test."""

    def started(self, run: Run, allocation: Allocation) -> None:
        """An attempt begins."""

    def ended(self, run: Run, exit_report: ExitReport) -> None:
        """An attempt ended; ``run`` is as the store has it now."""

    def notify(self, text: str) -> None:
        """Something a person should know."""

    def tick(self) -> None:
        """A moment has passed; called about ten times a second."""
