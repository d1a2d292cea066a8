"""What becomes of a run when its child has ended: one fenced call of the Store decides."""

from __future__ import annotations

from pathlib import Path

from lsqctl.errors import LeaseLost
from lsqctl.failpoint import failpoint
from lsqctl.run import EndReason
from lsqctl.store import Store
from lsqctl.worker.child import Child
from lsqctl.worker.order import ExitReport
from lsqctl.worker.spool import ingest_spool


def finalize_attempt(store: Store, child: Child) -> ExitReport:
    """Fail, give back or leave the run of a child that has ended; return why it ended.

    Raises StoreError while the database is away: then nothing was done.
    """
    exit_report = child.exit_report()
    failpoint("worker.child-ended")
    if exit_report.reason is EndReason.COMPLETED:
        return exit_report
    try:
        ingest_spool(store, child.claim.lease, Path(child.spec.run_dir))
        _store_end(store, child, exit_report)
    except LeaseLost:
        return ExitReport(EndReason.WORKER_LOST, "another attempt owns the run; nothing was changed")
    return exit_report


def _store_end(store: Store, child: Child, exit_report: ExitReport) -> None:
    lease = child.claim.lease
    stopped_by_us = child.stop_requested and exit_report.reason is EndReason.INFRA
    if child.cancel_requested:
        store.fail(lease, EndReason.CANCELLED, "cancelled by request")
    elif stopped_by_us or exit_report.reason is EndReason.PREEMPTED:
        failpoint("worker.before-release")
        store.release(lease)
    else:
        store.fail(lease, exit_report.reason, exit_report.message)
