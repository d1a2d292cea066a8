"""What `doctor` looks at in the database: schema, soundness, workers, the queue, checkpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.api.findings import Finding
from lsqctl.api.gc import find_rubbish
from lsqctl.api.watch import Watched, watch
from lsqctl.api.workspace import open_workspace
from lsqctl.errors import LsqctlError, OlderSchema
from lsqctl.run import RunState
from lsqctl.settings import Settings
from lsqctl.wording import counted

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.store.checkup import QueueState

LONG_WAIT = timedelta(days=1)
SKEW = timedelta(seconds=2)


def database(settings: Settings) -> Iterator[Finding]:
    """Yield findings on the database and what is in it."""
    try:
        with open_workspace(settings, migrate=False) as store:
            yield from _opened(store, settings)
    except OlderSchema as error:
        what = str(error).partition(";")[0]
        yield Finding("warning", what, "lsqctl db upgrade (every other command does it, too)")
    except LsqctlError as error:
        what, _, fix = str(error).partition("; ")
        yield Finding("error", what, fix or "name another database with --db, or another --home")


def _opened(store: Store, settings: Settings) -> Iterator[Finding]:
    yield Finding("ok", f"database {store.url}, schema {store.schema_version()}")
    for text in store.check():
        what, _, fix = text.partition("; ")
        restore = "restore a copy made by lsqctl db backup (db/README.md)"
        yield Finding("error", what, fix or restore)
    yield from _clock(store)
    yield from _queue(store)
    yield from _files(store, settings)


def _clock(store: Store) -> Iterator[Finding]:
    skew = store.clock_skew()
    if abs(skew) > SKEW:
        seconds = abs(skew).total_seconds()
        side = "ahead of" if skew > timedelta() else "behind"
        yield Finding(
            "warning",
            f"the database's clock is {seconds:.0f} s {side} this machine's",
            "let both follow a time server: timedatectl set-ntp true",
        )


def _queue(store: Store) -> Iterator[Finding]:
    seen = watch(store)
    told = ", ".join(f"{count} {state}" for state, count in seen.sight.counts.items() if count)
    yield Finding("ok", f"runs: {told or 'none yet'}")
    yield from _workers(seen)
    state = store.queue_state(LONG_WAIT)
    yield from _held(state)
    yield from _too_large(state, seen)
    yield from _too_long(state)
    if failed := seen.sight.counts[RunState.FAILED]:
        yield Finding("warning", f"{failed} failed", "lsqctl runs ls --state failed")


def _workers(seen: Watched) -> Iterator[Finding]:
    live = [one for one in seen.sight.workers if not one.lost]
    queued = sum(one.count for one in seen.sight.pending if not one.held)
    for one in seen.workers:
        identity = one.worker.identity
        if one.lost:
            runs = f", with {counted(one.busy, 'run')}" if one.busy else ""
            yield Finding(
                "warning",
                f"worker {identity.name} on {identity.host} is lost: it was last seen "
                f"{one.seen_seconds:.0f} s ago{runs}",
                "lsqctl worker --until-empty (any worker takes its runs up again)",
            )
        elif one.notice:
            yield Finding("ok", f"worker {identity.name}: {one.notice}")
    if queued and not live:
        yield Finding(
            "warning",
            f"{counted(queued, 'run')} queued, and no worker is at work",
            "lsqctl worker --until-empty",
        )
    elif live:
        slots = sum(one.worker.identity.slots for one in live)
        yield Finding("ok", f"{len(live)} workers at work, {slots} slots")


def _held(state: QueueState) -> Iterator[Finding]:
    if state.held:
        yield Finding(
            "warning",
            f"{counted(state.held, 'run')} held, {state.held_run} the oldest",
            f"lsqctl runs release {state.held_run}",
        )


def _too_large(state: QueueState, seen: Watched) -> Iterator[Finding]:
    """Find runs that reserve more GPUs than any live worker has: nobody will ever take them."""
    live = [one.worker.identity for one in seen.sight.workers if not one.lost]
    most = max((one.slots for one in live if one.device.startswith("cuda")), default=0)
    if live and state.most_gpus > max(1, most):
        yield Finding(
            "warning",
            f"run {state.largest_run} reserves {state.most_gpus} GPUs, and the largest worker at "
            f"work has {most}",
            f"start a worker on a machine with {state.most_gpus} GPUs, or lsqctl runs cancel "
            f"{state.largest_run}",
        )


def _too_long(state: QueueState) -> Iterator[Finding]:
    if state.oldest_run and state.oldest_hours:
        yield Finding(
            "warning",
            f"run {state.oldest_run} has waited in the queue for {state.oldest_hours:.0f} h",
            f"more workers; or lsqctl runs priority {state.oldest_run} 10 lets it go first",
        )


def _files(store: Store, settings: Settings) -> Iterator[Finding]:
    """Compare the checkpoints that have a row with those on this machine's disk."""
    gone: Counter[str] = Counter()
    for run_id, directory in store.checkpoint_folders():
        here = settings.run_dir(run_id)
        if here.is_dir() and not (here / Path(directory).name).is_dir():
            gone[run_id] += 1
    if gone:
        shown = ", ".join(sorted(gone)[:3]) + (", …" if len(gone) > 3 else "")
        yield Finding(
            "warning",
            f"{counted(gone.total(), 'checkpoint')} of {counted(len(gone), 'run')} without files "
            f"({shown})",
            f"restore {settings.runs_dir} from a copy, or lsqctl runs rm them and submit again",
        )
    found = find_rubbish(store, settings)
    if found.rubbish:
        size = sum(one.size_bytes for one in found.rubbish) / 1e9
        yield Finding(
            "ok", f"{size:.2f} GB of old checkpoints and leftovers can go", "lsqctl runs gc"
        )
    if found.strange:
        yield Finding(
            "warning",
            f"the database knows none of the {found.strange} run folders in {settings.runs_dir}",
            "--home and --db belong together: name the workspace's own database",
        )
