"""Examine the installation, the workspace and the database; every finding comes with its fix.

Nothing is changed: an older database is not upgraded, no worker is reaped, no file removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.errors import LsqctlError, OlderSchema
from lsqctl.run import RunState
from lsqctl.services.doctor_machine import Finding, check_disks, check_machine
from lsqctl.services.gc import find_garbage
from lsqctl.services.watch import QueueStatus, read_queue_status
from lsqctl.services.workspace import open_workspace, workspace_exists
from lsqctl.settings import VARIABLES, Settings, unknown_variables
from lsqctl.text import did_you_mean, format_bytes, join_counts, pluralize

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.store.queue_overview import QueueHealth


def diagnose(settings: Settings, *, opens_data: bool = True) -> list[Finding]:
    """Return findings on Python, libraries, devices, disk, data, the database and the queue.

    ``opens_data``: whether the data and weights of the runs in the queue are read for it.
    """
    return [
        *check_machine(settings),
        *_check_variables(),
        *_check_plugins(),
        *_check_data_folder(settings),
        *_check_workspace(settings, opens_data=opens_data),
    ]


def _check_workspace(settings: Settings, *, opens_data: bool) -> Iterator[Finding]:
    if not workspace_exists(settings):
        yield from check_disks(settings)
        yield Finding("ok", f"no workspace yet; the first `lsqctl submit` makes {settings.home}")
        return
    database_findings = list(check_database(settings, opens_data=opens_data))
    yield from check_disks(settings)
    yield from database_findings


def _check_plugins() -> Iterator[Finding]:
    from lsqctl.services.plugins import check_plugin_files

    yield from check_plugin_files()


def _check_variables() -> Iterator[Finding]:
    for name in unknown_variables():
        yield Finding(
            "warning",
            f"the variable {name} is set, and nothing reads it{did_you_mean(name, VARIABLES)}",
            f"unset {name}; known are {', '.join(VARIABLES)}",
        )


def _check_data_folder(settings: Settings) -> Iterator[Finding]:
    if settings.data_dir.is_dir():
        yield Finding("ok", f"data folder {settings.data_dir}")
    elif settings.data_dir_explicit:
        yield Finding(
            "warning",
            f"--data-dir or LSQCTL_DATA names {settings.data_dir}, and there is no such folder",
            "name another, or fill it: lsqctl data fetch cifar10",
        )
    else:
        yield Finding("ok", f"no data folder {settings.data_dir} yet; only digits need none")


LONG_QUEUE_WAIT = timedelta(days=1)
MAX_CLOCK_SKEW = timedelta(seconds=2)


def check_database(settings: Settings, *, opens_data: bool = True) -> Iterator[Finding]:
    """Yield findings on the database and what is in it; ``opens_data`` as for ``diagnose``."""
    try:
        with open_workspace(settings, migrate=False) as store:
            yield from _check_store(store, settings)
            if opens_data:
                yield from _check_pending(store, settings)
    except OlderSchema as error:
        message = str(error).partition(";")[0]
        yield Finding("warning", message, "lsqctl db upgrade (every other command does it, too)")
    except LsqctlError as error:
        message, _, fix = str(error).partition("; ")
        yield Finding("error", message, fix or "name another database with --db, or another --home")


def _check_store(store: Store, settings: Settings) -> Iterator[Finding]:
    yield Finding("ok", f"database {store.url}, schema {store.maintenance.schema_version()}")
    for text in store.maintenance.check():
        message, _, fix = text.partition("; ")
        restore = "restore a copy made by lsqctl db backup (db/README.md)"
        yield Finding("error", message, fix or restore)
    yield from _check_clock(store)
    yield from _check_queue(store)
    yield from _check_files(store, settings)
    yield from _check_profiles(store, settings)


def _check_profiles(store: Store, settings: Settings) -> Iterator[Finding]:
    """Ask the scheduler of each profile in cluster.toml what it would do with a pilot."""
    if not (settings.home / "cluster.toml").exists():
        return
    from lsqctl.services.cluster import check_profiles

    yield from check_profiles(store, settings)


def _check_clock(store: Store) -> Iterator[Finding]:
    skew = store.maintenance.clock_skew()
    if abs(skew) > MAX_CLOCK_SKEW:
        seconds = abs(skew).total_seconds()
        side = "ahead of" if skew > timedelta() else "behind"
        yield Finding(
            "warning",
            f"the database's clock is {seconds:.0f} s {side} this machine's",
            "let both follow a time server: timedatectl set-ntp true",
        )


def _check_queue(store: Store) -> Iterator[Finding]:
    status = read_queue_status(store)
    counts_text = join_counts(status.overview.counts)
    yield Finding("ok", f"runs: {counts_text or 'none yet'}")
    yield from _check_workers(status)
    state = store.queue.health(LONG_QUEUE_WAIT)
    yield from _check_held(state)
    yield from _check_unschedulable(state, status)
    yield from _check_queue_wait(state)
    if failed := status.overview.counts[RunState.FAILED]:
        yield Finding("warning", f"{failed} failed", "lsqctl runs ls --state failed")


def _check_workers(status: QueueStatus) -> Iterator[Finding]:
    live = [entry for entry in status.overview.workers if not entry.stale]
    queued = sum(entry.count for entry in status.overview.pending if not entry.held)
    for entry in status.workers:
        identity = entry.worker.identity
        if entry.stale:
            runs = f", with {pluralize(entry.running_runs, 'run')}" if entry.running_runs else ""
            yield Finding(
                "warning",
                f"worker {identity.name} on {identity.host} is stale: its last heartbeat was "
                f"{entry.seconds_since_heartbeat:.0f} s ago{runs}",
                "lsqctl worker --until-empty (any worker takes its runs up again)",
            )
        elif entry.notice:
            yield Finding("ok", f"worker {identity.name}: {entry.notice}")
    if queued and not live:
        yield Finding(
            "warning",
            f"{pluralize(queued, 'run')} queued, and no worker is at work",
            "lsqctl worker --until-empty",
        )
    elif live:
        slots = sum(entry.worker.identity.slots for entry in live)
        yield Finding("ok", f"{len(live)} workers at work, {slots} slots")


def _check_held(state: QueueHealth) -> Iterator[Finding]:
    if state.held:
        yield Finding(
            "warning",
            f"{pluralize(state.held, 'run')} held, {state.held_run} the oldest",
            f"lsqctl runs release {state.held_run}",
        )


def _check_unschedulable(state: QueueHealth, status: QueueStatus) -> Iterator[Finding]:
    """Find runs that want more GPUs, or slots, than any live worker has: nobody will take them."""
    identities = [entry.worker.identity for entry in status.overview.workers if not entry.stale]
    most_slots = max((entry.slots for entry in identities), default=0)
    if identities and state.max_gpus > max(1, most_slots):
        yield Finding(
            "warning",
            f"run {state.largest_run} reserves {state.max_gpus} GPUs, and the largest worker at "
            f"work has {most_slots}",
            f"start a worker on a machine with {state.max_gpus} GPUs, or with `--slots "
            f"{state.max_gpus}` on a CPU, or lsqctl runs gpus {state.largest_run} 1",
        )


def _check_queue_wait(state: QueueHealth) -> Iterator[Finding]:
    if state.oldest_run and state.oldest_hours:
        yield Finding(
            "warning",
            f"run {state.oldest_run} has waited in the queue for {state.oldest_hours:.0f} h",
            f"more workers; or lsqctl runs priority {state.oldest_run} 10 lets it go first",
        )


def _check_pending(store: Store, settings: Settings) -> Iterator[Finding]:
    """Find the runs that wait for what a worker would refuse."""
    from lsqctl.services.queue_checks import pending_problems

    for problem, runs in pending_problems(store, settings):
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        yield Finding(
            "warning",
            f"run {runs[0].id} ({runs[0].name}, seed {runs[0].seed}){more} would fail: {problem}",
            f"put right what it names, or lsqctl runs cancel {runs[0].id}",
        )


def _check_files(store: Store, settings: Settings) -> Iterator[Finding]:
    """Compare the checkpoints that have a row with those on this machine's disk."""
    missing: Counter[str] = Counter()
    for run_id, directory in store.checkpoints.directories():
        run_dir = settings.run_dir(run_id)
        if run_dir.is_dir() and not (run_dir / Path(directory).name).is_dir():
            missing[run_id] += 1
    if missing:
        shown = ", ".join(sorted(missing)[:3]) + (", …" if len(missing) > 3 else "")
        yield Finding(
            "warning",
            f"{pluralize(missing.total(), 'checkpoint')} of {pluralize(len(missing), 'run')} "
            "without files "
            f"({shown})",
            f"restore {settings.runs_dir} from a copy, or lsqctl runs rm them and submit again",
        )
    report = find_garbage(store, settings)
    if report.garbage:
        size = format_bytes(sum(item.size_bytes for item in report.garbage))
        yield Finding("ok", f"{size} of old checkpoints and leftovers can go", "lsqctl runs gc")
    if report.unknown_dirs:
        yield Finding(
            "warning",
            f"the database knows none of the {report.unknown_dirs} run folders in "
            f"{settings.runs_dir}",
            "--home and --db belong together: name the workspace's own database",
        )
