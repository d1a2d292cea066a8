"""`watch`: the queue live: counts, workers, running runs, the first failure, the time left."""

from __future__ import annotations

import contextlib
import json as json_text
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.durations import duration
from lsqctl.cli.render import SCHEMA_VERSION, plain, print_json
from lsqctl.cli.state import Json, workspace
from lsqctl.errors import StoreError, UsageError
from lsqctl.leaderboard.clean import clean

if TYPE_CHECKING:
    from rich.live import Live

    from lsqctl.api.watch import Watched
    from lsqctl.store import Store

_LIVE_SECONDS = 1.0
_SHORTEST_SECONDS = 0.1


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
            parser=duration, metavar="TIME", help="Look so often; default in a terminal: 1s."
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
    if interval is not None and (once or interval < _SHORTEST_SECONDS):
        raise UsageError(f"--interval is {_SHORTEST_SECONDS:g} s at least, and not with --once")
    live = sys.stdout.isatty() and not (once or json)
    repeats = live or interval is not None or until_empty
    with contextlib.suppress(KeyboardInterrupt), workspace(ctx, silent=live) as store:
        look = _looker(store, sweep)
        if live:
            _live(look, interval or _LIVE_SECONDS, until_empty=until_empty)
        elif repeats:
            _again(look, interval or 5.0, until_empty=until_empty, json=json)
        else:
            _print(look(), json=json)


def _looker(store: Store, sweep: str | None) -> Callable[[], Watched]:
    from lsqctl.api.sweeps import sweep_named
    from lsqctl.api.watch import watch as look

    name = sweep_named(store, sweep) if sweep else None
    return lambda: look(store, sweep=name)


def _live(look: Callable[[], Watched], interval: float, *, until_empty: bool) -> None:
    """Draw anew until there is nothing left, or Ctrl-C; what was drawn last stays."""
    from rich.live import Live

    from lsqctl.cli.render import stdout
    from lsqctl.cli.watch_view import draw

    seen = look()  # a store that cannot be read is an error, not an empty screen
    console = stdout()
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            live.update(draw(seen, console.width, console.height - 1), refresh=True)
            if until_empty and not seen.unfinished:
                return
            seen = _next(look, live, interval)


def _next(look: Callable[[], Watched], live: Live, interval: float) -> Watched:
    """Return the next look; a store that is away for a moment is said, and asked again."""
    from rich.text import Text

    while True:
        time.sleep(interval)
        try:
            return look()
        except StoreError as error:
            live.update(Text(clean(str(error)), style="red"), refresh=True)


def _again(look: Callable[[], Watched], interval: float, *, until_empty: bool, json: bool) -> None:
    while True:
        seen = look()
        if json:
            print(json_text.dumps(_as_json(seen), ensure_ascii=False), flush=True)
        else:
            _print(seen, json=False)
            print(flush=True)
        if until_empty and not seen.unfinished:
            return
        time.sleep(interval)


def _print(seen: Watched, *, json: bool) -> None:
    from lsqctl.cli.watch_view import draw

    if json:
        print_json(_as_json(seen))
    elif sys.stdout.isatty():
        from lsqctl.cli.render import stdout

        console = stdout()
        console.print(draw(seen, console.width), soft_wrap=False)
    else:
        print(draw(seen).plain)


def _as_json(seen: Watched) -> dict[str, object]:
    sight = seen.sight
    return {
        "schema_version": SCHEMA_VERSION,
        "now": plain(sight.now),
        "sweep": seen.sweep,
        "counts": plain(sight.counts),
        "workers": [
            {
                "id": one.worker.identity.id,
                "name": one.worker.identity.name,
                "host": one.worker.identity.host,
                "device": one.worker.identity.device,
                "slots": one.worker.identity.slots,
                "busy": one.busy,
                "seen_seconds_ago": round(one.seen_seconds, 3),
                "lost": one.lost,
                "notice": one.notice,
            }
            for one in seen.workers
        ],
        "running": [
            {
                **plain(one.run),
                "loss": plain(one.loss),
                "top1_points": plain(one.top1),
                "seconds_left": seen.left.get(one.run.id),
            }
            for one in sight.running
        ],
        "seconds_left": seen.queue.seconds,
        "no_estimate_because": seen.queue.why,
        "first_failure": plain(sight.first_failure),
        "put_back": plain(sight.put_back),
    }
