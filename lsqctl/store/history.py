"""Does a run's history hold together?  A pure function of its events and rows; no database.

The laws: states change along LEGAL and each change starts where the one before ended; attempts
are numbered without a gap, each has a fence of its own, and no two live at once; whoever writes
owns the run at that moment; what an attempt left behind its successor's starting point is gone;
a run has a result exactly when it succeeded, with one headline, and otherwise a reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lsqctl.run import LEGAL, EndReason, Event, RunState

_LIVE = RunState.RUNNING
_Key = tuple[int, str]  # an attempt's number and fence


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt's own row; ``resumed_step`` is -1 when it began from scratch."""

    number: int
    fence: str
    finished: bool
    reason: EndReason | None
    resumed_step: int


@dataclass(frozen=True, slots=True)
class Written:
    """The rows of one kind (``metrics``) with one fence: their furthest step."""

    kind: str
    fence: str
    last_step: int


@dataclass(frozen=True, slots=True)
class History:
    """All that is known of how a run came to be what it is. ``fence`` is of its own row."""

    run_id: str
    state: RunState
    reason: EndReason | None
    attempt: int
    fence: str | None
    leased: bool
    events: Sequence[Event]  # oldest first
    tries: Sequence[Try] = ()
    written: Sequence[Written] = ()
    results: int = 0
    headlines: int = 0


def problems(history: History) -> Iterator[str]:
    """Yield each thing that cannot have happened, in one sentence that names the run."""
    owners, found = _owners(history.events)
    parts = (
        _moves(history),
        found,
        _attempts(history, owners),
        _owner(history, owners),
        _writers(history),
        _end(history),
    )
    for part in parts:
        for sentence in part:
            yield f"run {history.run_id}: {sentence}"


def _moves(history: History) -> Iterator[str]:
    """Each change of state is legal and starts where the one before ended."""
    moves = [one for one in history.events if one.to_state is not None]
    if not moves or moves[0].from_state or moves[0].to_state not in LEGAL.keys() - {_LIVE}:
        yield "its history does not begin with its submission"
    for before, after in pairwise(moves):
        if after.from_state is not before.to_state:
            yield f"event {after.id} leaves {after.from_state}, but it was {before.to_state}"
        elif after.to_state not in LEGAL[after.from_state or _LIVE]:
            yield f"event {after.id} goes from {after.from_state} to {after.to_state}"
    if moves and moves[-1].to_state is not history.state:
        yield f"it is {history.state}, but its history ends with {moves[-1].to_state}"


def _owners(events: Sequence[Event]) -> tuple[list[_Key], list[str]]:
    """Return every attempt that ever owned the run, in order, and what broke that order."""
    owners: list[_Key] = []
    found: list[str] = []
    live: _Key | None = None
    for event in events:
        key = event.attempt, event.fence
        if event.to_state is _LIVE:
            found += _begins(event, owners, live)
            owners.append(key)
            live = key
            continue
        if (any(key) or event.from_state is _LIVE) and key != live:
            found.append(f"event {event.id} is by attempt {event.attempt}, which did not own it")
        if event.to_state is not None:
            live = None
    return owners, found


def _begins(event: Event, owners: Sequence[_Key], live: _Key | None) -> Iterator[str]:
    if live is not None:
        yield f"attempt {event.attempt} began while attempt {live[0]} owned it"
    if event.attempt != len(owners) + 1:
        yield f"attempt {event.attempt} is the {len(owners) + 1}. to begin"
    if not event.fence or event.fence in {fence for _, fence in owners}:
        yield f"attempt {event.attempt} has no fence of its own"


def _attempts(history: History, owners: Sequence[_Key]) -> Iterator[str]:
    """The attempts' rows are those that the events tell of, and each ended but the live one."""
    if [(one.number, one.fence) for one in history.tries] != list(owners):
        yield "its attempts are not those that its history tells of"
    for one in history.tries:
        lives = history.state is _LIVE and one.number == history.attempt
        last = history.state is RunState.SUCCEEDED and one.number == history.attempt
        if one.finished is lives or (one.reason is not None) is lives:
            yield f"attempt {one.number} {'has ended' if lives else 'never ended'}"
        if (one.reason is EndReason.COMPLETED) is not last:
            yield f"attempt {one.number} ended as {one.reason}, but the run is {history.state}"


def _owner(history: History, owners: Sequence[_Key]) -> Iterator[str]:
    """The run's own row names its latest attempt while it is running, and no lease otherwise."""
    if history.attempt != len(owners):
        yield f"it counts {history.attempt} attempts, its history {len(owners)}"
    if history.state is _LIVE and (history.attempt, history.fence) not in owners[-1:]:
        yield "its owner is not the attempt that began last"
    if history.state is not _LIVE and history.leased:
        yield f"it is {history.state}, but somebody has a lease on it"


def _writers(history: History) -> Iterator[str]:
    """Rows have the fence of an attempt, and none lies after the point of a later resumption."""
    numbers = {one.fence: one.number for one in history.tries}
    resumed = {one.attempt for one in history.events if one.kind == "resumed"}
    for rows in history.written:
        if (number := numbers.get(rows.fence)) is None:
            yield f"{rows.kind} up to step {rows.last_step} are of an attempt that never was"
            continue
        for later in history.tries:
            goes_on = later.number in resumed and later.number > number
            if goes_on and rows.last_step > later.resumed_step:
                yield (
                    f"{rows.kind} of attempt {number} reach step {rows.last_step}, but attempt "
                    f"{later.number} went on from step {later.resumed_step}"
                )


def _end(history: History) -> Iterator[str]:
    """A result exactly when it succeeded, and a reason whenever it ended."""
    if history.state is RunState.SUCCEEDED:
        if history.headlines != 1:
            yield f"it succeeded with {history.headlines} headline results instead of one"
        if history.reason is not EndReason.COMPLETED:
            yield f"it succeeded with reason {history.reason}"
        return
    if history.results:
        yield f"it is {history.state} and has a result"
    ended = history.state in (RunState.FAILED, RunState.CANCELLED)
    if ended and history.reason in (None, EndReason.COMPLETED):
        yield f"it is {history.state} without a reason"
