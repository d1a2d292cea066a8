"""Wait for runs to end: ask the store now and then, until all have, or the time is over."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lsqctl.errors import NotFound, StoreError, UnusableDatabase, UsageError
from lsqctl.run import ACTIVE_STATES, EndReason, RunState
from lsqctl.services.run_control import resolve_sweep

if TYPE_CHECKING:
    from lsqctl.run import RunStatus
    from lsqctl.store import Store

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class WaitResult:
    """How the runs stood at the end of the wait; ``removed`` are ids that are gone.

    ``stopped`` fell out of their sweep at a rung, which is no failure.
    """

    succeeded: tuple[RunStatus, ...]
    stopped: tuple[RunStatus, ...]
    failed: tuple[RunStatus, ...]
    pending: tuple[RunStatus, ...]
    removed: tuple[str, ...]

    @property
    def ended(self) -> tuple[RunStatus, ...]:
        """Those that are not pending, however they ended."""
        return (*self.succeeded, *self.stopped, *self.failed)


def run_ids(store: Store, run_refs: Sequence[str], sweep: str | None) -> list[str]:
    """Return the ids of the runs that are named and of a sweep's cells, each one time.

    Raises UsageError for neither, NotFound for what is not there.
    """
    if not run_refs and sweep is None:
        raise UsageError("name runs to wait for, or a sweep with --sweep")
    ids = [store.runs.resolve(ref).id for ref in run_refs]
    if sweep is not None:
        cells = store.sweeps.run_ids(resolve_sweep(store, sweep) or "")
        if not cells:
            raise NotFound(f"the sweep `{sweep}` has no runs left; `lsqctl sweep status {sweep}`")
        ids += cells
    return list(dict.fromkeys(ids))


def wait(
    store: Store,
    ids: Sequence[str],
    *,
    timeout: float | None = None,
    fail_fast: bool = False,
    on_end: Callable[[RunStatus], None] = lambda _: None,
    notify: Callable[[str], None] = lambda _: None,
) -> WaitResult:
    """Return once every run has ended, or ``timeout`` seconds have passed; 0 checks once.

    ``on_end`` hears of each end as it is seen. ``fail_fast`` does not wait for the others once one
    has failed. A run that was requeued for another try is pending. A store that goes away later
    than at the beginning is asked again: ``notify`` hears of it once, and when it is back.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    reported: set[str] = set()
    result, is_away = _read(store, ids), False
    while True:
        for status in result.ended:
            if status.id not in reported:
                reported.add(status.id)
                on_end(status)
        reported -= {status.id for status in result.pending}  # tried again
        if not result.pending or (fail_fast and result.failed):
            return result
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return result
        time.sleep(min(POLL_SECONDS, remaining))
        result, is_away = _read_again(store, ids, result, notify, was_away=is_away)


def _read_again(
    store: Store,
    ids: Sequence[str],
    last: WaitResult,
    notify: Callable[[str], None],
    *,
    was_away: bool,
) -> tuple[WaitResult, bool]:
    """Return how the runs stand, and whether the store is away: then as they last stood."""
    try:
        result = _read(store, ids)
    except UnusableDatabase:
        raise
    except StoreError as error:
        if not was_away:
            notify(f"{error}; going on as soon as the database answers")
        return last, True
    if was_away:
        notify("the database answers again")
    return result, False


def _read(store: Store, ids: Sequence[str]) -> WaitResult:
    store.ensure_usable()
    return _by_state(store.runs.statuses(ids), ids)


def _by_state(statuses: Sequence[RunStatus], ids: Sequence[str]) -> WaitResult:
    succeeded = tuple(status for status in statuses if status.state is RunState.SUCCEEDED)
    pending = tuple(status for status in statuses if status.state in ACTIVE_STATES)
    stopped = tuple(status for status in statuses if status.reason is EndReason.STOPPED)
    ended_well = {status.id for status in (*succeeded, *stopped, *pending)}
    existing_ids = {status.id for status in statuses}
    return WaitResult(
        succeeded=succeeded,
        stopped=stopped,
        failed=tuple(status for status in statuses if status.id not in ended_well),
        pending=pending,
        removed=tuple(run_id for run_id in ids if run_id not in existing_ids),
    )
