"""Runs as a person sees them: lists, details, statuses; cancel, retry, hold, priority, tags."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice

from sqlalchemy import ColumnElement, Connection, delete, func, select, update

from lsqctl.errors import IllegalTransition, NotFound, UsageError
from lsqctl.filters.evaluate import matches
from lsqctl.filters.expression import Expression, columns_of
from lsqctl.run import (
    ACTIVE_STATES,
    RECORDED,
    Attempt,
    EndReason,
    IfExists,
    NewRun,
    Run,
    RunDetail,
    RunEvent,
    RunState,
    RunStatus,
    check_tag,
)
from lsqctl.store.database import StorePart, exclusive_tx, read_tx, write_tx
from lsqctl.store.dependencies import (
    RETRYABLE,
    end_children,
    raise_parent_priority,
    requeue,
)
from lsqctl.store.dialects import from_json, now, upsert
from lsqctl.store.enqueue import canonical_run, check_submission
from lsqctl.store.rows import (
    batches,
    is_live,
    latest_top1,
    load_parents,
    load_runs,
    select_runs,
    to_event,
    to_run,
)
from lsqctl.store.tables import (
    AnyColumn,
    AnyRow,
    attempts,
    events,
    live_runs,
    run_tags,
    runs,
    sweep_cells,
)
from lsqctl.store.transitions import record_event, select_for_update, transition
from lsqctl.text import did_you_mean

_LAST_PATTERN = re.compile(r"@last(?:~(\d{1,9}))?")
_MAX_SHOWN = 5


class Runs(StorePart):
    """Runs as a person names, lists, stops, retries and labels them."""

    @read_tx
    def list(
        self,
        db: Connection,
        *,
        states: Collection[RunState] | None = None,
        limit: int | None = None,
        sweep: str | None = None,
        name: str | None = None,
        recipe_sha256: str | None = None,
        tag: str | None = None,
        where: Expression | None = None,
    ) -> Sequence[Run]:
        """Return runs, newest first; each argument narrows them."""
        conditions: list[ColumnElement[bool]] = []
        if states is not None:
            conditions.append(live_runs.c.state.in_(states))
        if sweep is not None:
            cells = select(sweep_cells.c.run_id).where(sweep_cells.c.sweep == sweep)
            conditions.append(live_runs.c.id.in_(cells))
        if name is not None:
            conditions.append(live_runs.c.name == name)
        if recipe_sha256 is not None:
            conditions.append(live_runs.c.recipe_sha256 == recipe_sha256)
        if tag is not None:
            conditions.append(
                live_runs.c.id.in_(select(run_tags.c.run_id).where(run_tags.c.tag == tag))
            )
        if where is None:
            return _list_runs(db, *conditions, limit=limit)
        ids = list(islice(_matching_ids(db, where, conditions), limit))
        loaded = load_runs(db, ids)
        return [loaded[run_id] for run_id in ids]

    @read_tx
    def detail(self, db: Connection, run_id: str) -> RunDetail:
        """Return all that is known of a run.  Raises NotFound."""
        loaded = load_runs(db, [run_id])
        if not loaded:
            raise NotFound(f"no run has the id {run_id}")
        json_row = db.execute(
            select(live_runs.c.recipe, live_runs.c.provenance).where(live_runs.c.id == run_id)
        ).one()
        attempts_query = (
            select(attempts).where(attempts.c.run_id == run_id).order_by(attempts.c.number)
        )
        return RunDetail(
            run=loaded[run_id],
            recipe=from_json(json_row.recipe),
            provenance=from_json(json_row.provenance),
            parents=load_parents(db, run_id),
            attempts=tuple(_to_attempt(row) for row in db.execute(attempts_query)),
        )

    @read_tx
    def events(self, db: Connection, run_id: str) -> Sequence[RunEvent]:
        """Return a run's history, oldest first."""
        if not is_live(db, run_id):
            return []
        query = select(events).where(events.c.run_id == run_id).order_by(events.c.id)
        return [to_event(row) for row in db.execute(query)]

    @read_tx
    def counts(self, db: Connection) -> dict[RunState, int]:
        """Return how many runs are in each state, zeros included."""
        query = select(live_runs.c.state, func.count().label("n")).group_by(live_runs.c.state)
        count_by_state = {RunState(row.state): int(row.n) for row in db.execute(query)}
        return {state: count_by_state.get(state, 0) for state in RunState}

    @read_tx
    def resolve(self, db: Connection, run_ref: str) -> Run:
        """Return the run of a full id, an exact name (its newest run), a unique prefix of an id,
        ``@last``, or ``@last~N`` (N before it).

        Raises NotFound, naming what is near, and UsageError for a prefix of several ids.
        """
        if match := _LAST_PATTERN.fullmatch(run_ref):
            return _last(db, run_ref, int(match[1] or 0))
        newest = select_runs().order_by(live_runs.c.seq.desc())
        for exact in (live_runs.c.id == run_ref.lower(), live_runs.c.name == run_ref):
            if row := db.execute(newest.where(exact).limit(1)).one_or_none():
                return to_run(row)
        start = live_runs.c.id.startswith(run_ref.lower(), autoescape=True)
        matches = db.execute(newest.where(start).limit(_MAX_SHOWN + 1)).all() if run_ref else []
        if not matches:
            raise NotFound(
                f"no run is `{run_ref}`{did_you_mean(run_ref, _recent_ids_and_names(db))}"
            )
        if len(matches) > 1:
            shown = ", ".join(f"{row.id} ({row.name})" for row in matches[:_MAX_SHOWN])
            more = ", …" if len(matches) > _MAX_SHOWN else ""
            raise UsageError(f"`{run_ref}` begins several run ids: {shown}{more}; write more of it")
        return to_run(matches[0])

    @read_tx
    def statuses(self, db: Connection, ids: Sequence[str]) -> Sequence[RunStatus]:
        """Return where these runs stand, in the order given; one that was removed is left out."""
        columns = [
            live_runs.c[name] for name in ("id", "name", "seed", "state", "reason", "message")
        ]
        status_by_id = {
            row.id: RunStatus(
                row.id,
                row.name,
                row.seed,
                RunState(row.state),
                EndReason(row.reason) if row.reason else None,
                row.message,
            )
            for batch in batches(ids)
            for row in db.execute(select(*columns).where(live_runs.c.id.in_(batch)))
        }
        return [status_by_id[run_id] for run_id in ids if run_id in status_by_id]

    @read_tx
    def preview(
        self, db: Connection, new: Sequence[NewRun], *, if_exists: IfExists = "skip"
    ) -> dict[str, tuple[Run, bool]]:
        """Return, by ``run_sha256``, runs that are there, and whether they would be queued again.

        Nothing is changed. Raises what ``store.queue.enqueue`` would raise.
        """
        retryable = check_submission(db, new, if_exists)
        hashes = [one.run_sha256 for one in new if if_exists != "rerun" or not one.explicit]
        ids = {sha: row.id for sha in hashes if (row := canonical_run(db, sha)) is not None}
        loaded = load_runs(db, list(ids.values()))
        return {sha: (loaded[run_id], run_id in retryable) for sha, run_id in ids.items()}

    @exclusive_tx
    def cancel(self, db: Connection, run_id: str) -> RunState:
        """Cancel a run: at once when nobody works on it, else at its worker's next renewal.

        Raises NotFound, and IllegalTransition for a finished run.
        """
        row = select_for_update(db, run_id)
        state = RunState(row.state)
        _check_unfinished(run_id, state, "cancelled")
        if state is RunState.RUNNING:
            db.execute(update(runs).where(runs.c.id == run_id).values(cancel_requested=True))
            record_event(db, run_id, "cancel-requested")
            return state
        transition(
            db,
            run_id,
            state,
            RunState.CANCELLED,
            "cancelled",
            reason=EndReason.CANCELLED,
            finished_at=now(),
            not_before=None,
        )
        end_children(db, run_id, row.name, RunState.CANCELLED)
        return RunState.CANCELLED

    @exclusive_tx
    def retry(
        self,
        db: Connection,
        run_id: str,
        *,
        from_scratch: bool = False,
        delete_files: Callable[[str], object] = lambda run_id: None,
    ) -> RunState:
        """Requeue a failed or cancelled run, with its dead parents and the children it ended.

        ``from_scratch`` forgets its metrics and checkpoints; ``delete_files`` is then called with
        its id, before anyone can claim it, and drops its files. Raises NotFound, and
        IllegalTransition for a run in any other state.
        """
        row = select_for_update(db, run_id)
        state = RunState(row.state)
        if row.origin == RECORDED:
            raise IllegalTransition(
                f"run {run_id} was recorded: start the loop of `{row.name}` again; lsqctl has none"
            )
        if state not in RETRYABLE:
            is_or_has = f"is {state}" if state in ACTIVE_STATES else f"has {_ended(state)}"
            raise IllegalTransition(
                f"run {run_id} {is_or_has}; only a failed or cancelled run is tried again"
            )
        requeue(db, [run_id], from_scratch=from_scratch)
        if from_scratch:
            delete_files(run_id)
        return RunState(select_for_update(db, run_id).state)

    @exclusive_tx
    def hold(self, db: Connection, *run_ids: str, held: bool = True) -> None:
        """Keep unfinished runs from being claimed, or let them go: all, or on an error none.

        A running one goes on, and is held when it is requeued. Raises NotFound, and
        IllegalTransition for a finished run.
        """
        for run_id in run_ids:
            row = select_for_update(db, run_id)
            _check_unfinished(run_id, RunState(row.state), "held" if held else "released")
            if row.held != held:
                db.execute(update(runs).where(runs.c.id == run_id).values(held=held))
                record_event(db, run_id, "held" if held else "unheld")

    @exclusive_tx
    def prioritize(self, db: Connection, *run_ids: str, priority: int) -> None:
        """Let unfinished runs be claimed before those of a lower priority: all, or none.

        Unfinished parents get at least as much, or they would keep them waiting. Raises NotFound,
        and IllegalTransition for a finished run.
        """
        for run_id in run_ids:
            row = select_for_update(db, run_id)
            _check_unfinished(run_id, RunState(row.state), "given a priority")
            if row.priority != priority:
                db.execute(update(runs).where(runs.c.id == run_id).values(priority=priority))
                record_event(db, run_id, "priority", detail=str(priority))
            raise_parent_priority(db, run_id, priority)

    @exclusive_tx
    def set_gpus(self, db: Connection, *run_ids: str, gpus: int) -> None:
        """Let the next attempts of unfinished runs be shared by so many processes: all, or none.

        Raises NotFound, and IllegalTransition for a finished run.
        """
        for run_id in run_ids:
            row = select_for_update(db, run_id)
            _check_unfinished(run_id, RunState(row.state), "given other GPUs")
            if row.gpus != gpus:
                db.execute(update(runs).where(runs.c.id == run_id).values(gpus=gpus))
                record_event(db, run_id, "gpus", detail=str(gpus))

    @read_tx
    def tags(self, db: Connection, ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the tags of each of these runs, sorted; runs without one are left out."""
        tags_by_run: dict[str, list[str]] = defaultdict(list)
        for batch in batches(ids):
            query = (
                select(run_tags)
                .join(live_runs, live_runs.c.id == run_tags.c.run_id)
                .where(run_tags.c.run_id.in_(batch))
                .order_by(run_tags.c.tag)
            )
            for row in db.execute(query):
                tags_by_run[row.run_id].append(row.tag)
        return {run_id: tuple(words) for run_id, words in tags_by_run.items()}

    @write_tx
    def update_tags(
        self, db: Connection, run_id: str, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> None:
        """Give a run tags and take others away; what is so already is no error.

        Raises NotFound, and UsageError for what cannot be a tag.
        """
        for word in add:
            check_tag(word)
        select_for_update(db, run_id)
        of_run = run_tags.c.run_id == run_id
        db.execute(delete(run_tags).where(of_run, run_tags.c.tag.in_(remove)))
        upsert(db, run_tags, [{"run_id": run_id, "tag": word} for word in add])

    @write_tx
    def set_note(self, db: Connection, run_id: str, note: str) -> None:
        """Set a person's note on a run; empty removes it.  Raises NotFound."""
        select_for_update(db, run_id)
        db.execute(update(runs).where(runs.c.id == run_id).values(note=note))
        record_event(db, run_id, "annotated")


# What a filter of runs may name that no column of theirs has under that name.
_FILTER_COLUMNS: Mapping[str, AnyColumn] = {
    "top1": latest_top1(),
    "worker": live_runs.c.worker_id,
}


def _matching_ids(
    db: Connection, where: Expression, conditions: Collection[ColumnElement[bool]]
) -> Iterator[str]:
    """Yield the ids of the runs that pass a filter, newest first; only its columns are read."""
    names = sorted(columns_of(where))
    columns = [_FILTER_COLUMNS.get(name, live_runs.c.get(name)) for name in names]
    query = select(live_runs.c.id, *columns).where(*conditions).order_by(live_runs.c.seq.desc())
    for run_id, *values in db.execute(query):
        row = {
            name: None if value == "" else value for name, value in zip(names, values, strict=True)
        }
        if matches(where, row.__getitem__):
            yield run_id


def _list_runs(
    db: Connection, *conditions: ColumnElement[bool], limit: int | None = None
) -> list[Run]:
    query = select_runs().where(*conditions).order_by(live_runs.c.seq.desc()).limit(limit)
    return [to_run(row) for row in db.execute(query)]


def _to_attempt(row: AnyRow) -> Attempt:
    return Attempt(
        run_id=row.run_id,
        number=row.number,
        fence=row.fence,
        worker=row.worker_id,
        started_at=row.started_at,
        finished_at=row.finished_at,
        reason=EndReason(row.reason) if row.reason else None,
        message=row.message,
        environment=from_json(row.environment),
        resumed_step=row.resumed_step,
    )


def _last(db: Connection, run_ref: str, back: int) -> Run:
    row = db.execute(
        select_runs().order_by(live_runs.c.seq.desc()).offset(back).limit(1)
    ).one_or_none()
    if row is None:
        raise NotFound(f"no run is `{run_ref}`: there are not so many runs yet")
    return to_run(row)


def _recent_ids_and_names(db: Connection) -> set[str]:
    recent = select(live_runs.c.id, live_runs.c.name).order_by(live_runs.c.seq.desc()).limit(1000)
    return {word for row in db.execute(recent) for word in row}


def _check_unfinished(run_id: str, state: RunState, verb: str) -> None:
    if state not in ACTIVE_STATES:
        raise IllegalTransition(f"run {run_id} has {_ended(state)} and cannot be {verb}")


def _ended(state: RunState) -> str:
    return "been cancelled" if state is RunState.CANCELLED else state.value
