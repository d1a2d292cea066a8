"""Which pilots to send and which to recall: a pure function of the queue and of those there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class PilotRole(StrEnum):
    """What a pilot is to the queue."""

    WAITING = "waiting"  # its scheduler has not started it
    STARTING = "starting"  # started, its worker not yet known
    IDLE = "idle"
    BUSY = "busy"  # it owns a run by the database, whatever its scheduler says
    SILENT = "silent"  # its worker has left, or was not heard of: nobody counts on it


_SUPPLY = frozenset({PilotRole.WAITING, PilotRole.STARTING, PilotRole.IDLE})


@dataclass(frozen=True, slots=True)
class PilotInUse:
    """A pilot as the plan sees it."""

    job_id: str
    gpus: int
    role: PilotRole


@dataclass(frozen=True, slots=True)
class Plan:
    """``send``: GPUs of each new pilot, the most urgent first; ``recall``: job ids."""

    send: tuple[int, ...] = ()
    recall: tuple[str, ...] = ()


def plan(ready: Mapping[int, int], pilots: Sequence[PilotInUse], most: int) -> Plan:
    """Return what brings as many pilots as there are runs, ``most`` at a time.

    ``ready`` counts by GPUs the runs that nobody owns, the most urgent first. A pilot that waits,
    starts or idles will take one of them; silent ones do not count, yet there are never more than
    twice ``most``. Recalled are waiting ones alone, the newest first, so
    that two dispatchers choose the same.
    """
    supply = Counter(one.gpus for one in pilots if one.role in _SUPPLY)
    alive = sum(one.role is not PilotRole.SILENT for one in pilots)
    room = min(most - alive, 2 * most - len(pilots))
    send: list[int] = []
    for gpus, count in ready.items():
        missing = max(0, count - supply[gpus])
        send += [gpus] * min(missing, max(0, room - len(send)))
    recall: list[str] = []
    for gpus, count in supply.items():
        surplus = max(0, count - ready.get(gpus, 0))
        recall += _newest_waiting(pilots, gpus)[:surplus]
    return Plan(tuple(send), tuple(recall))


def _newest_waiting(pilots: Sequence[PilotInUse], gpus: int) -> list[str]:
    waiting = (one.job_id for one in pilots if one.gpus == gpus and one.role is PilotRole.WAITING)
    return sorted(waiting, key=lambda job_id: (len(job_id), job_id), reverse=True)
