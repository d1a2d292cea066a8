"""Wait for runs to end: ask the store now and then, until all have, or the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lsqctl.run import UNFINISHED, RunState

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.store.standing import Standing

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Waited:
    """How the runs stood at the end of the wait; ``removed`` are ids that are gone."""

    succeeded: tuple[Standing, ...]
    failed: tuple[Standing, ...]
    pending: tuple[Standing, ...]
    removed: tuple[str, ...]


def wait(
    store: Store,
    ids: Sequence[str],
    *,
    timeout: float | None = None,
    fail_fast: bool = False,
    ended: Callable[[Standing], None] = lambda _: None,
) -> Waited:
    """Return once every run has ended, or ``timeout`` seconds have passed; 0 looks once.

    ``ended`` hears of each end as it is seen. ``fail_fast`` does not wait for the others once one
    has failed. A run that was put back for another try is pending.
    """
    until = None if timeout is None else time.monotonic() + timeout
    told: set[str] = set()
    while True:
        now = _sorted(store.standing(ids), ids)
        for one in (*now.succeeded, *now.failed):
            if one.id not in told:
                told.add(one.id)
                ended(one)
        told -= {one.id for one in now.pending}  # tried again
        if not now.pending or (fail_fast and now.failed):
            return now
        remaining = POLL_SECONDS if until is None else until - time.monotonic()
        if remaining <= 0:
            return now
        time.sleep(min(POLL_SECONDS, remaining))


def _sorted(found: Sequence[Standing], ids: Sequence[str]) -> Waited:
    good = tuple(one for one in found if one.state is RunState.SUCCEEDED)
    pending = tuple(one for one in found if one.state in UNFINISHED)
    known = {one.id for one in found}
    return Waited(
        succeeded=good,
        failed=tuple(one for one in found if one not in (*good, *pending)),
        pending=pending,
        removed=tuple(run_id for run_id in ids if run_id not in known),
    )
