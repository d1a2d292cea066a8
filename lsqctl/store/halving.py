"""Successive halving of a sweep: cells wait at a rung for each other, the best go on, others stop.

What a rung decides is a function of what its cells have measured there. It is decided once all of
them have come, failed or been cancelled, in one transaction with all others of its kind: neither
who trained a cell, nor in which order they came, nor a worker that died on the way changes it. The
decisions stand in ``events`` (``promoted``, ``stopped``), which begin with ``rung K of N``.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from lsqctl.failpoint import failpoint
from lsqctl.run import ACTIVE_STATES, EndReason, Halving, JsonObject, Lease, RunState
from lsqctl.store.database import StorePart, exclusive_tx, read_tx
from lsqctl.store.dependencies import end_children
from lsqctl.store.dialects import decode_float, from_json, now, to_json
from lsqctl.store.metrics import is_better
from lsqctl.store.rows import batches
from lsqctl.store.tables import AnyRow, events, live_runs, metric_points, sweep_cells
from lsqctl.store.transitions import NO_LEASE, end_attempt, require_lease, transition
from lsqctl.text import pluralize

PLAN = "halving"  # of a run's provenance: its sweep and how that is halved
_PROMOTED, _STOPPED = "promoted", "stopped"
_RUNG = re.compile(r"rung (\d+) of ")
_PAUSED = live_runs.c.state == RunState.WAITING, live_runs.c.reason == EndReason.RUNG


class Rungs(StorePart):
    """Pausing at a rung, and deciding who goes on from it."""

    @read_tx
    def next_rung(self, db: Connection, run_id: str) -> int | None:
        """Return the epoch after which a run is to wait for its sweep, None for one that need not.

        One that was stopped, and that somebody has retried, trains to its end.
        """
        found = _next_rung(db, run_id)
        return found[2] if found else None

    @exclusive_tx
    def pause(self, db: Connection, lease: Lease) -> RunState:
        """End an attempt that has come to its rung, and decide the rung if all others have.

        Returns where the run stands now. Raises LeaseLost.
        """
        require_lease(db, lease)
        found = _next_rung(db, lease.run_id)
        number, total, epoch = found or (0, 0, 0)
        where = f"rung {number} of {total}"
        end_attempt(db, lease, EndReason.RUNG, "")
        transition(
            db,
            lease.run_id,
            RunState.RUNNING,
            RunState.WAITING,
            "paused",
            detail=f"{where}, after epoch {epoch}",
            lease=lease,
            **NO_LEASE,
            consecutive_failures=0,
            epoch=epoch,
            reason=EndReason.RUNG,
            message=f"at {where}, after epoch {epoch}: waits for the other cells of its sweep",
        )
        decide_rungs(db)
        failpoint("rung.before-commit")
        state = db.scalar(select(live_runs.c.state).where(live_runs.c.id == lease.run_id))
        return RunState(str(state))

    def decide_due(self) -> None:
        """Decide what can be decided at rungs: a cell may have been cancelled or removed."""
        if self._any_paused():
            self._decide_due()

    @read_tx
    def _any_paused(self, db: Connection) -> bool:
        return db.execute(select(1).where(*_PAUSED).limit(1)).first() is not None

    @exclusive_tx
    def _decide_due(self, db: Connection) -> None:
        decide_rungs(db)


def _next_rung(db: Connection, run_id: str) -> tuple[int, int, int] | None:
    """Return the number of the next rung of a run, that of all its rungs, and its epoch."""
    provenance = db.scalar(select(live_runs.c.provenance).where(live_runs.c.id == run_id))
    plan = from_json(provenance).get(PLAN)
    decided = _decisions(db, [run_id])[run_id]
    if plan is None or decided.stopped_at or len(decided.promoted) >= len(plan["rungs"]):
        return None
    passed = len(decided.promoted)
    return passed + 1, len(plan["rungs"]), plan["rungs"][passed]


@dataclass(slots=True)
class _Decisions:
    """What the rungs have decided of a run: those it was promoted at, and the one it stopped at."""

    promoted: set[int] = field(default_factory=set)
    stopped_at: int = 0


def _decisions(db: Connection, run_ids: Sequence[str]) -> Mapping[str, _Decisions]:
    found: defaultdict[str, _Decisions] = defaultdict(_Decisions)
    for batch in batches(run_ids):
        query = select(events.c.run_id, events.c.kind, events.c.detail).where(
            events.c.run_id.in_(batch), events.c.kind.in_((_PROMOTED, _STOPPED))
        )
        for run_id, kind, detail in db.execute(query):
            match = _RUNG.match(detail)
            number = int(match[1]) if match else 0
            if kind == _PROMOTED:
                found[run_id].promoted.add(number)
            else:
                found[run_id].stopped_at = number
    return found


@dataclass(frozen=True, slots=True)
class _Contender:
    """A cell and what the rungs know of it; ``values`` are of its evaluations, one an epoch."""

    row: AnyRow
    values: Sequence[float]
    decided: _Decisions

    @property
    def paused(self) -> bool:
        return (self.row.state, self.row.reason) == (RunState.WAITING, EndReason.RUNG)

    def has_come(self, epoch: int) -> bool:
        """Whether it has been evaluated after ``epoch``, or ended well before it."""
        ended = bool(self.row.state == RunState.SUCCEEDED and self.values)
        return len(self.values) >= epoch or ended

    def value(self, epoch: int) -> float:
        return self.values[min(epoch, len(self.values)) - 1]


def decide_rungs(db: Connection) -> None:
    """Decide each rung at which a cell is paused and that no cell is still on its way to."""
    paused_by_plan: defaultdict[str, set[str]] = defaultdict(set)
    for row in db.execute(select(live_runs.c.id, live_runs.c.provenance).where(*_PAUSED)):
        plan = from_json(row.provenance).get(PLAN)
        if plan is not None:  # a sweep that was submitted again, halved otherwise, has two
            paused_by_plan[to_json(plan)].add(row.id)
    for text in sorted(paused_by_plan):
        plan = from_json(text)
        _decide_sweep(db, plan["sweep"], _to_halving(plan), paused_by_plan[text])


def _to_halving(plan: JsonObject) -> Halving:
    return Halving(plan["metric"], plan["factor"], tuple(plan["rungs"]))


def _decide_sweep(db: Connection, sweep: str, halving: Halving, paused: set[str]) -> None:
    for number, epoch in enumerate(halving.rungs, 1):
        contenders = list(_contenders(db, sweep, halving.metric))
        arrived = [one for one in contenders if one.row.id in paused and _waits_at(one, number)]
        rivals = [one for one in contenders if not 0 < one.decided.stopped_at < number]
        on_their_way = any(_is_on_its_way(db, one, number, epoch) for one in rivals)
        if arrived and not on_their_way:
            ranked = _ranked([one for one in rivals if one.has_come(epoch)], halving.metric, epoch)
            _decide(db, arrived, ranked, halving, number)


def _is_on_its_way(db: Connection, contender: _Contender, number: int, epoch: int) -> bool:
    """Whether a cell may still bring another value than it has.

    One that pauses at rungs has come when it is paused: what it measured before counts only then,
    for an attempt that is lost measures it again.
    """
    if contender.paused or contender.row.state not in ACTIVE_STATES:
        return False
    decided = contender.decided
    if not contender.has_come(epoch):
        return True
    if decided.stopped_at or len(decided.promoted) >= number:
        return False
    query = select(live_runs.c.provenance).where(live_runs.c.id == contender.row.id)
    return PLAN in from_json(db.scalar(query))


def _waits_at(contender: _Contender, number: int) -> bool:
    return contender.paused and len(contender.decided.promoted) == number - 1


def _contenders(db: Connection, sweep: str, metric: str) -> Iterator[_Contender]:
    """Yield the cells of a sweep that have a run, by name and seed."""
    columns = [live_runs.c[name] for name in ("id", "name", "seed", "state", "reason", "epochs")]
    query = (
        select(*columns)
        .join(sweep_cells, sweep_cells.c.run_id == live_runs.c.id)
        .where(sweep_cells.c.sweep == sweep)
        .order_by(live_runs.c.name, live_runs.c.seed, live_runs.c.run_sha256)
    )
    rows = db.execute(query).all()
    ids = [row.id for row in rows]
    values, decided = _evaluations(db, ids, metric), _decisions(db, ids)
    for row in rows:
        yield _Contender(row, values[row.id], decided[row.id])


def _evaluations(db: Connection, run_ids: Sequence[str], metric: str) -> Mapping[str, list[float]]:
    """Return what each run's evaluations measured, one an epoch, in order."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    points = metric_points.c
    for batch in batches(run_ids):
        query = select(points.run_id, points.value, points.kind).where(
            points.run_id.in_(batch), points.name == metric, points.split != "train"
        )
        for run_id, value, kind in db.execute(query.order_by(points.run_id, points.step)):
            values[run_id].append(decode_float(value, kind))
    return values


def _ranked(contenders: Iterable[_Contender], metric: str, epoch: int) -> list[_Contender]:
    """Return them, the best first; of equals the one that comes first by name and seed."""
    sign = 1.0 if is_better(metric, 0.0, 1.0) else -1.0  # whether small is good

    def key(contender: _Contender) -> tuple[bool, float]:
        value = contender.value(epoch)
        return math.isnan(value), 0.0 if math.isnan(value) else sign * value

    return sorted(contenders, key=key)


def _decide(
    db: Connection,
    arrived: Sequence[_Contender],
    ranked: Sequence[_Contender],
    halving: Halving,
    number: int,
) -> None:
    """Queue those of the paused cells that are among the best, and stop the others."""
    epoch = halving.rungs[number - 1]
    going_on = math.ceil(len(ranked) / halving.factor)
    for contender in arrived:
        place = ranked.index(contender) + 1
        place_text = (
            f"{halving.metric} {contender.value(epoch):.4g} is number {place} of {len(ranked)}, "
            f"and {pluralize(going_on, 'cell')} went on"
        )
        where = f"rung {number} of {len(halving.rungs)}, after epoch {epoch}"
        if place <= going_on:
            _promote(db, contender.row, f"{where}: {place_text}")
        else:
            _stop(db, contender.row, f"{where} of {contender.row.epochs}: {place_text}")


def _promote(db: Connection, row: AnyRow, detail: str) -> None:
    """Queue a cell again; it keeps its priority and its place before what came later."""
    states = RunState.WAITING, RunState.QUEUED
    transition(db, row.id, *states, _PROMOTED, detail=detail, reason=None, message="")


def _stop(db: Connection, row: AnyRow, detail: str) -> None:
    """End a cell that fell out, and what waits for its weights."""
    transition(
        db,
        row.id,
        RunState.WAITING,
        RunState.CANCELLED,
        _STOPPED,
        detail=detail,
        reason=EndReason.STOPPED,
        message=f"stopped at {detail}",
        finished_at=now(),
        held=False,
    )
    end_children(db, row.id, row.name, RunState.CANCELLED)
