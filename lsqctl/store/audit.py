"""Does a run's history hold together?  A pure function of its events and rows; no database.

The laws: states change along TRANSITIONS, each change starts where the one before ended; attempts
are numbered without a gap, each has a fence of its own, and no two live at once; whoever writes
owns the run at that moment; what an attempt left behind its successor's starting point is gone;
a run has a result exactly when it succeeded, with one headline, and otherwise a reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lsqctl.run import TRANSITIONS, EndReason, RunEvent, RunState

_RUNNING = RunState.RUNNING
_AttemptKey = tuple[int, str]  # an attempt's number and fence


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt's own row; ``resumed_step`` is -1 when it began from scratch."""

    number: int
    fence: str
    finished: bool
    reason: EndReason | None
    resumed_step: int


@dataclass(frozen=True, slots=True)
class MeasurementSpan:
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
    events: Sequence[RunEvent]  # oldest first
    attempts: Sequence[AttemptRow] = ()
    measurements: Sequence[MeasurementSpan] = ()
    results: int = 0
    headlines: int = 0


def violations(history: History) -> Iterator[str]:
    """Yield each thing that cannot have happened, in one sentence that names the run."""
    owners, owner_violations = _replay_owners(history.events)
    parts = (
        _transition_violations(history),
        owner_violations,
        _attempt_violations(history, owners),
        _ownership_violations(history, owners),
        _measurement_violations(history),
        _end_violations(history),
    )
    for part in parts:
        for sentence in part:
            yield f"run {history.run_id}: {sentence}"


def _transition_violations(history: History) -> Iterator[str]:
    """Each change of state is legal and starts where the one before ended."""
    transitions = [event for event in history.events if event.to_state is not None]
    if (
        not transitions
        or transitions[0].from_state
        or transitions[0].to_state not in TRANSITIONS.keys() - {_RUNNING}
    ):
        yield "its history does not begin with its submission"
    for before, after in pairwise(transitions):
        if after.from_state is not before.to_state:
            yield f"event {after.id} leaves {after.from_state}, but it was {before.to_state}"
        elif after.to_state not in TRANSITIONS[after.from_state or _RUNNING]:
            yield f"event {after.id} goes from {after.from_state} to {after.to_state}"
    if transitions and transitions[-1].to_state is not history.state:
        yield f"it is {history.state}, but its history ends with {transitions[-1].to_state}"


def _replay_owners(events: Sequence[RunEvent]) -> tuple[list[_AttemptKey], list[str]]:
    """Return every attempt that ever owned the run, in order, and what broke that order."""
    owners: list[_AttemptKey] = []
    sentences: list[str] = []
    live: _AttemptKey | None = None
    for event in events:
        key = event.attempt, event.fence
        if event.to_state is _RUNNING:
            sentences += _claim_violations(event, owners, live)
            owners.append(key)
            live = key
            continue
        if (any(key) or event.from_state is _RUNNING) and key != live:
            sentences.append(
                f"event {event.id} is by attempt {event.attempt}, which did not own it"
            )
        if event.to_state is not None:
            live = None
    return owners, sentences


def _claim_violations(
    event: RunEvent, owners: Sequence[_AttemptKey], live: _AttemptKey | None
) -> Iterator[str]:
    if live is not None:
        yield f"attempt {event.attempt} began while attempt {live[0]} owned it"
    if event.attempt != len(owners) + 1:
        yield f"attempt {event.attempt} is the {len(owners) + 1}. to begin"
    if not event.fence or event.fence in {fence for _, fence in owners}:
        yield f"attempt {event.attempt} has no fence of its own"


def _attempt_violations(history: History, owners: Sequence[_AttemptKey]) -> Iterator[str]:
    """The attempts' rows are those that the events tell of, and each ended but the live one."""
    if [(attempt.number, attempt.fence) for attempt in history.attempts] != list(owners):
        yield "its attempts are not those that its history tells of"
    for attempt in history.attempts:
        lives = history.state is _RUNNING and attempt.number == history.attempt
        last = history.state is RunState.SUCCEEDED and attempt.number == history.attempt
        if attempt.finished is lives or (attempt.reason is not None) is lives:
            yield f"attempt {attempt.number} {'has ended' if lives else 'never ended'}"
        if (attempt.reason is EndReason.COMPLETED) is not last:
            ended = f"attempt {attempt.number} ended as {attempt.reason}"
            yield f"{ended}, but the run is {history.state}"


def _ownership_violations(history: History, owners: Sequence[_AttemptKey]) -> Iterator[str]:
    """The run's own row names its latest attempt while it is running, and no lease otherwise."""
    if history.attempt != len(owners):
        yield f"it counts {history.attempt} attempts, its history {len(owners)}"
    if history.state is _RUNNING and (history.attempt, history.fence) not in owners[-1:]:
        yield "its owner is not the attempt that began last"
    if history.state is not _RUNNING and history.leased:
        yield f"it is {history.state}, but somebody has a lease on it"


def _measurement_violations(history: History) -> Iterator[str]:
    """Rows have the fence of an attempt, and none lies after the point of a later resumption."""
    numbers = {entry.fence: entry.number for entry in history.attempts}
    resumed = {entry.attempt for entry in history.events if entry.kind == "resumed"}
    for rows in history.measurements:
        if (number := numbers.get(rows.fence)) is None:
            yield f"{rows.kind} up to step {rows.last_step} are of an attempt that never was"
            continue
        for later in history.attempts:
            goes_on = later.number in resumed and later.number > number
            if goes_on and rows.last_step > later.resumed_step:
                yield (
                    f"{rows.kind} of attempt {number} reach step {rows.last_step}, but attempt "
                    f"{later.number} went on from step {later.resumed_step}"
                )


def _end_violations(history: History) -> Iterator[str]:
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
