"""The dispatcher: keep as many pilots with a scheduler as the queue can use.

It owns no run, and nothing that it remembers matters: what it sent is found again by its name. It
may die, run twice, or be lied to; the worst is a pilot too many, which ends for want of work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lsqctl.cluster.demand import PilotInUse, PilotRole, plan
from lsqctl.cluster.pilot_script import PilotRequest
from lsqctl.cluster.schedulers import Pilot, Scheduler
from lsqctl.errors import PilotRefused, SchedulerAway
from lsqctl.store import Store
from lsqctl.store.queue_overview import Demand, PilotWorker
from lsqctl.text import pluralize

START_SECONDS = 300.0  # a pilot that has not become a worker by then is not counted on
MAX_FRUITLESS = 3  # that ended without having become a worker; then a person must see why
RETRY_SECONDS = 60.0  # before a pilot that was refused is sent again, doubled up to an hour
_KILLED = frozenset({"CANCELLED", "NODE_FAIL", "PREEMPTED", "REVOKED", "DEADLINE"})


@dataclass(frozen=True, slots=True)
class PilotStatus:
    """A pilot, what it is to the queue, and the worker that it became."""

    pilot: Pilot
    role: PilotRole
    worker: str = ""


class Dispatcher:
    """Sends and recalls the pilots of one profile.

    ``largest`` are the most GPUs that a run may reserve to be served, None for any number.
    ``make_request`` makes a pilot's request of its GPUs and of the nodes to avoid; ``notify`` is
    told in a line what a person should know; ``reap`` takes back the runs of dead workers.
    """

    def __init__(
        self,
        store: Store,
        scheduler: Scheduler,
        *,
        scheduler_name: str,
        prefix: str,
        most: int,
        largest: int | None,
        make_request: Callable[[int, frozenset[str]], PilotRequest],
        notify: Callable[[str], object],
        reap: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._scheduler = store, scheduler
        self._scheduler_name, self._prefix, self._most = scheduler_name, prefix, most
        self._largest = largest
        self._make_request, self._notify = make_request, notify
        self._reap, self._clock = reap, clock
        self._running_since: dict[str, float] = {}
        self._refused: dict[int, tuple[float, float]] = {}  # by GPUs: not before, and the delay
        self._said: dict[str, str] = {}

    def tick(self) -> list[PilotStatus] | None:
        """Reap, read, send and recall once; return the pilots, None when nobody can tell.

        Raises StoreError.
        """
        self._reap()
        try:
            pilots = self._scheduler.jobs(self._prefix)
        except SchedulerAway as error:  # nothing may be concluded from that
            self._say("away", f"{error}; nothing is sent or recalled until it answers")
            return None
        self._say("away", "")
        demand = self._store.queue.demand(self._scheduler_name)
        statuses = self._statuses(pilots, demand.workers)
        self._say_reasons(statuses)
        fruitless = [one for one in pilots if _is_fruitless(one, demand.workers)]
        self._act(statuses, self._servable(demand), fruitless)
        return statuses

    def statuses(self) -> list[PilotStatus]:
        """Return the pilots that there are, and do nothing.  Raises SchedulerAway, StoreError."""
        pilots = self._scheduler.jobs(self._prefix)
        return self._statuses(pilots, self._store.queue.demand(self._scheduler_name).workers)

    def _statuses(
        self, pilots: Sequence[Pilot], workers: Sequence[PilotWorker]
    ) -> list[PilotStatus]:
        self._running_since = {
            one.job_id: self._running_since.get(one.job_id, self._clock())
            for one in pilots
            if not one.waiting and not one.ended
        }
        return [self._status(pilot, workers) for pilot in pilots if not pilot.ended]

    def _servable(self, demand: Demand) -> dict[int, int]:
        """Return the ready runs that this profile's pilots could take; say which are too large."""
        largest = self._largest
        for gpus, count in demand.ready:
            if largest is not None and gpus > largest:
                runs = pluralize(count, "run")
                words = f"{runs} reserve {gpus} GPUs: this profile has pilots of the CPU alone"
                self._say(f"too large {gpus}", words)
        return {gpus: count for gpus, count in demand.ready if largest is None or gpus <= largest}

    def _act(
        self, statuses: Sequence[PilotStatus], ready: dict[int, int], fruitless: list[Pilot]
    ) -> None:
        in_use = [PilotInUse(one.pilot.job_id, one.pilot.gpus, one.role) for one in statuses]
        planned = plan(ready, in_use, self._most)
        try:
            if planned.recall:
                self._scheduler.recall(planned.recall)
                recalled = ", ".join(planned.recall)
                self._notify(f"recalled {recalled}: no run waits for it any more")
            if planned.send and not self._hold_back(fruitless):
                self._send(planned.send, frozenset(one.node for one in fruitless if one.node))
        except SchedulerAway as error:
            self._say("away", f"{error}; what was sent is found again by its name")

    def _send(self, sizes: Sequence[int], avoid: frozenset[str]) -> None:
        for gpus in sizes:
            not_before, delay = self._refused.get(gpus, (0.0, RETRY_SECONDS))
            if self._clock() < not_before:
                continue
            request = self._make_request(gpus, avoid)
            try:
                job_id = self._scheduler.submit(request)
            except PilotRefused as error:
                self._refused[gpus] = (self._clock() + delay, min(2 * delay, 3600.0))
                self._notify(f"a pilot with {pluralize(gpus, 'GPU')} was refused: {error}")
                continue
            self._refused.pop(gpus, None)
            self._notify(f"sent pilot {job_id} for runs that reserve {pluralize(gpus, 'GPU')}")

    def _hold_back(self, fruitless: list[Pilot]) -> bool:
        """Say which pilots came to nothing; return whether they are too many to go on."""
        logs = "; its log is in the folder cluster/logs of the workspace, if it could write there"
        for one in fruitless:
            where = f" on {one.node}, which is avoided for now" if one.node else ""
            state = f"ended ({one.state}) without having become a worker"
            self._say(f"fruitless {one.job_id}", f"pilot {one.job_id} {state}{where}{logs}")
        too_many = len(fruitless) >= MAX_FRUITLESS
        held_back = f"{len(fruitless)} pilots came to nothing: none is sent for some minutes"
        self._say("held back", held_back if too_many else "")
        return too_many

    def _status(self, pilot: Pilot, workers: Sequence[PilotWorker]) -> PilotStatus:
        of_pilot = [one for one in workers if one.job_id == pilot.job_id]
        if busy := next((one for one in of_pilot if one.running_runs), None):
            return PilotStatus(pilot, PilotRole.BUSY, busy.name)
        if pilot.waiting:
            return PilotStatus(pilot, PilotRole.WAITING)
        if alive := next((one for one in of_pilot if not one.silent), None):
            return PilotStatus(pilot, PilotRole.IDLE, alive.name)
        since = self._running_since.get(pilot.job_id, self._clock())
        late = self._clock() - since > START_SECONDS
        return PilotStatus(pilot, PilotRole.SILENT if of_pilot or late else PilotRole.STARTING)

    def _say_reasons(self, statuses: Sequence[PilotStatus]) -> None:
        for one in statuses:
            if one.role is PilotRole.WAITING and one.pilot.reason:
                words = f"pilot {one.pilot.job_id} waits: {one.pilot.reason}"
                self._say(f"reason {one.pilot.job_id}", words)

    def _say(self, subject: str, text: str) -> None:
        """Say it when it is another than the last time."""
        if text and self._said.get(subject) != text:
            self._notify(text)
        self._said[subject] = text


def _is_fruitless(pilot: Pilot, workers: Sequence[PilotWorker]) -> bool:
    """Return whether a pilot ended by itself before it was a worker."""
    worked = any(one.job_id == pilot.job_id for one in workers)
    return pilot.ended and pilot.state not in _KILLED and not worked
