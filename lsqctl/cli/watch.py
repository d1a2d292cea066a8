"""`watch`: the queue, the workers and the running runs live, drawn to fit."""

from __future__ import annotations

import contextlib
import json as json_text
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl import JSON_SCHEMA_VERSION
from lsqctl.cli.console import STATE_STYLES, print_json, to_json_types
from lsqctl.cli.options import Json, duration_seconds, get_settings, open_store
from lsqctl.cli.progress import run_label
from lsqctl.cli.table import Column, styled_row, table_lines, to_text
from lsqctl.errors import StoreError, UnusableDatabase, UsageError
from lsqctl.run import RunState
from lsqctl.text import format_duration, sanitize

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

    from lsqctl.services.watch import QueueStatus, ReportedPilot
    from lsqctl.store import Store
    from lsqctl.store.queue_overview import RunningRun, WorkerStatus

_LIVE_INTERVAL_SECONDS = 1.0
_MIN_INTERVAL_SECONDS = 0.1


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command(epilog="Example: lsqctl watch --sweep digits/resnet8-lsq")(watch)


def watch(
    ctx: typer.Context,
    sweep: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only the runs of this sweep.")
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(
            parser=duration_seconds,
            metavar="TIME",
            help="Poll this often; default in a terminal: 1s.",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print once.")] = False,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when no run is unfinished.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the queue, the workers and the running runs.

    Until Ctrl-C, which ends it with 0.

    Without a terminal, or with --once, it prints once; with --interval again and again.
    """
    if interval is not None and (once or interval < _MIN_INTERVAL_SECONDS):
        raise UsageError(f"--interval is {_MIN_INTERVAL_SECONDS:g} s at least, and not with --once")
    live = sys.stdout.isatty() and not (once or json)
    repeats = live or interval is not None or until_empty
    with contextlib.suppress(KeyboardInterrupt), open_store(ctx, silent=live) as store:
        read_status = _status_reader(store, sweep, get_settings(ctx).home)
        if live:
            _show_live(read_status, interval or _LIVE_INTERVAL_SECONDS, until_empty=until_empty)
        elif repeats:
            _print_repeatedly(read_status, interval or 5.0, until_empty=until_empty, json=json)
        else:
            _print_status(read_status(), json=json)


def _status_reader(store: Store, sweep: str | None, home: Path) -> Callable[[], QueueStatus]:
    from lsqctl.services.run_control import resolve_sweep
    from lsqctl.services.watch import read_queue_status

    name = resolve_sweep(store, sweep) if sweep else None

    def read() -> QueueStatus:
        store.ensure_usable()  # SQLite goes on reading a file that was moved away
        return read_queue_status(store, sweep=name, home=home)

    return read


def _show_live(
    read_status: Callable[[], QueueStatus], interval: float, *, until_empty: bool
) -> None:
    """Draw anew until there is nothing left, or Ctrl-C; what was drawn last stays."""
    from rich.live import Live

    from lsqctl.cli.console import stdout_console

    status = read_status()  # a store that cannot be read is an error, not an empty screen
    console = stdout_console()
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            live.update(render_status(status, console.width, console.height - 1), refresh=True)
            if until_empty and not status.n_active:
                return
            status = _next_status(read_status, live, interval)


def _next_status(
    read_status: Callable[[], QueueStatus], live: Live, interval: float
) -> QueueStatus:
    """Return the next status; a store that is away for a moment is said, and asked again."""
    from rich.text import Text

    while True:
        time.sleep(interval)
        try:
            return read_status()
        except UnusableDatabase:
            raise
        except StoreError as error:
            live.update(Text(sanitize(str(error)), style="red"), refresh=True)


def _print_repeatedly(
    read_status: Callable[[], QueueStatus], interval: float, *, until_empty: bool, json: bool
) -> None:
    while True:
        status = read_status()
        if json:
            print(json_text.dumps(_status_json(status), ensure_ascii=False), flush=True)
        else:
            _print_status(status, json=False)
            print(flush=True)
        if until_empty and not status.n_active:
            return
        time.sleep(interval)


def _print_status(status: QueueStatus, *, json: bool) -> None:

    if json:
        print_json(_status_json(status))
    elif sys.stdout.isatty():
        from lsqctl.cli.console import stdout_console

        console = stdout_console()
        console.print(render_status(status, console.width), soft_wrap=False)
    else:
        print(render_status(status).plain)


def _status_json(status: QueueStatus) -> dict[str, object]:
    overview = status.overview
    return {
        "schema_version": JSON_SCHEMA_VERSION,
        "now": to_json_types(overview.now),
        "sweep": status.sweep,
        "counts": to_json_types(overview.counts),
        "workers": [_worker_json(entry) for entry in status.workers],
        "pilots": to_json_types(status.pilots),
        "running": [
            {
                **to_json_types(entry.run),
                "loss": to_json_types(entry.loss),
                "top1_points": to_json_types(entry.top1),
                "seconds_left": status.seconds_left.get(entry.run.id),
            }
            for entry in overview.running
        ],
        "seconds_left": status.estimate.seconds,
        "no_estimate_reason": status.estimate.reason,
        "first_failure": to_json_types(overview.first_failure),
        "retrying": to_json_types(overview.retrying),
    }


def _worker_json(status: WorkerStatus) -> dict[str, object]:
    identity = status.worker.identity
    return {
        "id": identity.id,
        "name": identity.name,
        "host": identity.host,
        "device": identity.device,
        "slots": identity.slots,
        "running_runs": status.running_runs,
        "seconds_since_heartbeat": round(status.seconds_since_heartbeat, 3),
        "stale": status.stale,
        "notice": status.notice,
    }


_BARS = "▁▂▃▄▅▆▇█"
_SPARKLINE_WIDTH = 12
_RESERVED_LINES = 6  # lines that are not running runs or workers
_RUN_COLUMNS = (
    Column("run", cut="end", uncut_width=32),
    Column("id", priority=4),
    Column("epoch", "right", priority=6),
    Column("loss", "right", priority=5),
    Column("", priority=2),
    Column("Top-1 %", "right"),
    Column("", priority=3),
    Column("left", "right", priority=7),
    Column("worker", priority=1),
)
_PILOT_COLUMNS = (
    Column("pilot"),
    Column("profile", priority=3),
    Column("GPUs", "right", priority=4),
    Column("node", priority=1),
    Column("state"),
    Column("role", priority=2),
    Column("reason", cut="end"),
)
_WORKER_COLUMNS = (
    Column("worker", cut="end"),
    Column("host", priority=1),
    Column("device", priority=3),
    Column("slots", "right"),
    Column("heartbeat", "right", priority=2),
    Column("notice", cut="end"),
)


def render_status(status: QueueStatus, width: int | None = None, height: int | None = None) -> Text:
    """Return the status as lines no wider than ``width``, and about ``height`` of them."""
    from rich.text import Text

    others = min(len(status.workers), 5) + min(len(status.pilots), 6)
    max_runs = None if height is None else max(1, height - _RESERVED_LINES - others)
    lines = [_counts_line(status, width)]
    workers = [_worker_row(entry) for entry in status.workers]
    lines += _table_lines(_WORKER_COLUMNS, workers, width)[: 6 if height else None]
    pilots = [_pilot_row(pilot) for pilot in status.pilots]
    lines += _table_lines(_PILOT_COLUMNS, pilots, width)[: 6 if height else None]
    running = [_running_row(entry, status) for entry in status.overview.running]
    lines += _table_lines(_RUN_COLUMNS, running[:max_runs], width)
    if max_runs is not None and len(running) > max_runs:
        lines.append(Text(f"and {len(running) - max_runs} more running", style="dim"))
    lines += [_truncate(Text(text, style), width) for text, style in _problem_lines(status)]
    lines.append(_truncate(Text(_last_line(status), style="dim"), width))
    return Text("\n").join(lines)


def sparkline(values: Sequence[float], max_values: int = _SPARKLINE_WIDTH) -> str:
    """Return the latest values as bars, scaled to the least and the greatest; ``×`` is no number.

    >>> sparkline([1.0, 2.0, 3.0])
    '▁▅█'
    """
    latest = list(values)[-max_values:]
    finite = [value for value in latest if math.isfinite(value)]
    if not finite:
        return "×" * len(latest)
    low, span = min(finite), max(finite) - min(finite)
    top = len(_BARS) - 1
    return "".join(
        _BARS[round((value - low) / span * top) if span else top // 2]
        if math.isfinite(value)
        else "×"
        for value in latest
    )


def _counts_line(status: QueueStatus, width: int | None) -> Text:
    from rich.text import Text

    counts = status.overview.counts
    state_counts = [(f"{count} {state}", state) for state, count in counts.items() if count]
    text = Text(f"{sanitize(status.sweep)}: " if status.sweep else "", style="bold")
    for number, (words, state) in enumerate(state_counts):
        text.append(" · " if number else "", style="dim")
        text.append(words, style=STATE_STYLES[state.value])
    text.append("" if state_counts else "no runs yet; lsqctl submit RECIPE")
    held = sum(group.count for group in status.overview.pending if group.held)
    text.append(f" ({held} held)" if held else "", style="yellow")
    return _truncate(text, width)


def _worker_row(worker_status: WorkerStatus) -> tuple[str, ...]:
    identity = worker_status.worker.identity
    state = (
        "stale" if worker_status.stale else f"{worker_status.running_runs}/{identity.slots} busy"
    )
    last_heartbeat = f"{format_duration(worker_status.seconds_since_heartbeat)} ago"
    notice = worker_status.notice or (
        "no heartbeat; its runs are requeued" if worker_status.stale else ""
    )
    return (identity.name, identity.host, identity.device, state, last_heartbeat, notice)


def _pilot_row(pilot: ReportedPilot) -> tuple[str, ...]:
    return (
        pilot.job,
        pilot.profile,
        pilot.gpus,
        pilot.node,
        pilot.state,
        pilot.role,
        pilot.reason,
    )


def _running_row(running_run: RunningRun, status: QueueStatus) -> tuple[str, ...]:
    run, seconds_left = running_run.run, status.seconds_left.get(running_run.run.id)
    state = "lease expired" if run.lease_expired else f"{run.epoch}/{run.epochs}"
    attempt_text = f" (attempt {run.attempt})" if run.attempt > 1 else ""
    return (
        run_label(run) + attempt_text,
        run.id,
        state,
        f"{running_run.loss[-1]:.4g}" if running_run.loss else "",
        sparkline(running_run.loss),
        f"{running_run.top1[-1]:.2f}" if running_run.top1 else "",
        sparkline(running_run.top1),
        "" if seconds_left is None else format_duration(seconds_left),
        run.worker or "",
    )


def _problem_lines(status: QueueStatus) -> list[tuple[str, str]]:
    """Return what went wrong, a line each: errors must not hide until a sweep ends."""
    lines = []
    for run in status.overview.retrying[:2]:
        message = f"requeued: {run_label(run)} ({run.id}): {run.reason}: {run.message}"
        lines.append((sanitize(message), "yellow"))
    if failed := status.overview.first_failure:
        count = status.overview.counts[RunState.FAILED]
        first = "first failure" if count > 1 else "failed"
        message = f"{first}: {run_label(failed)} ({failed.id}): {failed.reason}: {failed.message}"
        lines.append((sanitize(message), "red"))
    return lines


def _last_line(status: QueueStatus) -> str:
    """Return the last line: the time left, or what to do next."""
    overview = status.overview
    if not status.n_active:
        return (
            "nothing is unfinished; next: lsqctl leaderboard"
            if any(overview.counts.values())
            else ""
        )
    if status.estimate.seconds is not None:
        return f"about {format_duration(status.estimate.seconds)} until the queue is empty"
    if overview.pending and not overview.running and all(one.held for one in overview.pending):
        return "all that is left is held; next: lsqctl runs release RUN"
    if not any(not worker_status.stale for worker_status in status.workers):
        return "no worker is at work; next: lsqctl worker --until-empty"
    return f"no estimate: {status.estimate.reason}"


def _table_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None
) -> list[Text]:
    """Return a head and a line a row; nothing for no row."""
    cells = [styled_row(row, STATE_STYLES) for row in rows]
    lines = table_lines([replace(column, optional=True) for column in columns], cells, width)
    return [_truncate(to_text([line]), width) for line in lines] if rows else []


def _truncate(text: Text, width: int | None) -> Text:
    if width is None:
        text.rstrip()
    else:
        text.truncate(width, overflow="ellipsis")
    return text
