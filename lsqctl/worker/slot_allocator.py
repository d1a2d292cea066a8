"""A worker's slots as they are now: what is free, what is left alone, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lsqctl.worker.gpus import GpuHealth, is_gpu_error
from lsqctl.worker.messages import ExitReport
from lsqctl.worker.slots import Allocation, Pool, Slot


class SlotAllocator:
    """Holds the pool, and keeps it in step with the health of the GPUs."""

    def __init__(self, slots: Sequence[Slot], gpu_health: GpuHealth | None = None) -> None:
        self.pool = Pool(tuple(slots))
        self.notice = ""
        self._gpu_health = gpu_health

    @property
    def threads_per_slot(self) -> int:
        """What an attempt in one slot computes with."""
        return self.pool.slots[0].threads

    def refresh(self, on_change: Callable[[str], object] = lambda notice: None) -> None:
        """Ask again for the GPUs that we do not use; say so when the notice has changed."""
        if self._gpu_health is None:
            return
        unavailable = self._gpu_health.unavailable(self.pool.idle_gpus)
        self.pool = self.pool.excluding(unavailable)
        notice = self._gpu_health.notice(unavailable)
        if notice != self.notice:
            self.notice = notice
            on_change(notice)

    def allocate(self, gpus: int) -> Allocation:
        """Take the slots for an attempt.  Raises ValueError when there is no room."""
        allocation, self.pool = self.pool.allocate(gpus)
        return allocation

    def release(self, allocation: Allocation, exit_report: ExitReport) -> None:
        """Free the slots of an attempt that has ended; a GPU that failed it is quarantined."""
        self.pool = self.pool.release(allocation)
        if self._gpu_health is not None and is_gpu_error(exit_report.reason, exit_report.message):
            self._gpu_health.quarantine(allocation.gpus, exit_report.message)
