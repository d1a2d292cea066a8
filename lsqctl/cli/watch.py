"""`watch`: the queue live: counts, workers, running runs, the first failure, the time left."""

from __future__ import annotations

import contextlib
import json as json_text
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.durations import duration_seconds
from lsqctl.cli.render import JSON_SCHEMA_VERSION, to_json_types, print_json
from lsqctl.cli.state import Json, open_store
from lsqctl.errors import StoreError, UsageError
from lsqctl.leaderboard.clean import clean

if TYPE_CHECKING:
    from rich.live import Live

    from lsqctl.api.watch import QueueStatus
    from lsqctl.store import Store

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
            parser=duration_seconds, metavar="TIME", help="Look so often; default in a terminal: 1s."
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when no run is unfinished.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the queue, the workers and the running runs until Ctrl-C, which ends it with 0.

    Without a terminal, or with --once, it looks once; with --interval again and again.
    """
    if interval is not None and (once or interval < _MIN_INTERVAL_SECONDS):
        raise UsageError(f"--interval is {_MIN_INTERVAL_SECONDS:g} s at least, and not with --once")
    live = sys.stdout.isatty() and not (once or json)
    repeats = live or interval is not None or until_empty
    with contextlib.suppress(KeyboardInterrupt), open_store(ctx, silent=live) as store:
        read_status = _status_reader(store, sweep)
        if live:
            _show_live(read_status, interval or _LIVE_INTERVAL_SECONDS, until_empty=until_empty)
        elif repeats:
            _print_repeatedly(read_status, interval or 5.0, until_empty=until_empty, json=json)
        else:
            _print_status(read_status(), json=json)


def _status_reader(store: Store, sweep: str | None) -> Callable[[], QueueStatus]:
    from lsqctl.api.sweeps import resolve_sweep
    from lsqctl.api.watch import read_queue_status as look

    name = resolve_sweep(store, sweep) if sweep else None
    return lambda: look(store, sweep=name)


def _show_live(read_status: Callable[[], QueueStatus], interval: float, *, until_empty: bool) -> None:
    """Draw anew until there is nothing left, or Ctrl-C; what was drawn last stays."""
    from rich.live import Live

    from lsqctl.cli.render import stdout_console
    from lsqctl.cli.watch_view import render_status

    status = read_status()  # a store that cannot be read is an error, not an empty screen
    console = stdout_console()
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            live.update(render_status(status, console.width, console.height - 1), refresh=True)
            if until_empty and not status.n_active:
                return
            status = _next_status(read_status, live, interval)


def _next_status(read_status: Callable[[], QueueStatus], live: Live, interval: float) -> QueueStatus:
    """Return the next status; a store that is away for a moment is said, and asked again."""
    from rich.text import Text

    while True:
        time.sleep(interval)
        try:
            return read_status()
        except StoreError as error:
            live.update(Text(clean(str(error)), style="red"), refresh=True)


def _print_repeatedly(read_status: Callable[[], QueueStatus], interval: float, *, until_empty: bool, json: bool) -> None:
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
    from lsqctl.cli.watch_view import render_status

    if json:
        print_json(_status_json(status))
    elif sys.stdout.isatty():
        from lsqctl.cli.render import stdout_console

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
        "workers": [
            {
                "id": entry.worker.identity.id,
                "name": entry.worker.identity.name,
                "host": entry.worker.identity.host,
                "device": entry.worker.identity.device,
                "slots": entry.worker.identity.slots,
                "busy": entry.running_runs,
                "seen_seconds_ago": round(entry.seconds_since_heartbeat, 3),
                "lost": entry.stale,
                "notice": entry.notice,
            }
            for entry in status.workers
        ],
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
        "no_estimate_because": status.estimate.reason,
        "first_failure": to_json_types(overview.first_failure),
        "put_back": to_json_types(overview.retrying),
    }
