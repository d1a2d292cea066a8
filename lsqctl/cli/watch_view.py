"""Draw one look at the queue as text that fits a terminal; in a pipe as wide as it needs to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lsqctl.cli.live import label
from lsqctl.cli.render import STATE_STYLES, duration
from lsqctl.leaderboard.clean import clean
from lsqctl.run import RunState

if TYPE_CHECKING:
    from rich.text import Text

    from lsqctl.api.watch import Watched
    from lsqctl.store.sight import RunningRun, SeenWorker

_BARS = "▁▂▃▄▅▆▇█"
_SPARK = 12
_GAP = 2
_ROOM = 6  # lines that are not running runs or workers
_RUNS = ("run", "id", "epoch", "loss", " ", "Top-1 %", "  ", "left", "worker")
_RUNS_GIVE_WAY = ("worker", "id", " ", "loss", "epoch", "  ", "left")
_WORKERS = ("worker", "host", "device", "slots", "seen", "notice")
_WORKERS_GIVE_WAY = ("host", "seen", "device")
_RIGHT = frozenset({"epoch", "loss", "Top-1 %", "left", "slots", "seen"})


def draw(seen: Watched, width: int | None = None, height: int | None = None) -> Text:
    """Return the look as lines no wider than ``width``, and about ``height`` of them."""
    from rich.text import Text

    most = None if height is None else max(1, height - _ROOM - min(len(seen.workers), 5))
    lines = [_counts(seen, width)]
    lines += _table(_WORKERS, [_worker(one) for one in seen.workers], _WORKERS_GIVE_WAY, width)[
        : 6 if height else None
    ]
    running = [_run(one, seen) for one in seen.sight.running]
    lines += _table(_RUNS, running[:most], _RUNS_GIVE_WAY, width)
    if most is not None and len(running) > most:
        lines.append(Text(f"and {len(running) - most} more running", style="dim"))
    lines += [_cut(Text(text, style), width) for text, style in _troubles(seen)]
    lines.append(_cut(Text(_end(seen), style="dim"), width))
    return Text("\n").join(lines)


def sparkline(values: Sequence[float], size: int = _SPARK) -> str:
    """Return the latest values as bars, scaled to the least and the greatest; ``×`` is no number.

    >>> sparkline([1.0, 2.0, 3.0])
    '▁▅█'
    """
    shown = list(values)[-size:]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return "×" * len(shown)
    low, span = min(finite), max(finite) - min(finite)
    top = len(_BARS) - 1
    return "".join(
        _BARS[round((value - low) / span * top) if span else top // 2]
        if math.isfinite(value)
        else "×"
        for value in shown
    )


def _counts(seen: Watched, width: int | None) -> Text:
    from rich.text import Text

    counts = seen.sight.counts
    told = [(f"{count} {state}", state) for state, count in counts.items() if count]
    text = Text(f"{clean(seen.sweep)}: " if seen.sweep else "", style="bold")
    for number, (words, state) in enumerate(told):
        text.append(" · " if number else "", style="dim")
        text.append(words, style=STATE_STYLES[state.value])
    text.append("" if told else "no runs yet; lsqctl submit RECIPE")
    held = sum(one.count for one in seen.sight.pending if one.held)
    text.append(f" ({held} held)" if held else "", style="yellow")
    return _cut(text, width)


def _worker(one: SeenWorker) -> tuple[str, ...]:
    identity = one.worker.identity
    state = "lost" if one.lost else f"{one.busy}/{identity.slots} busy"
    seen = f"{duration(one.seen_seconds)} ago"
    notice = one.notice or ("no renewal; its runs go back to the queue" if one.lost else "")
    return (identity.name, identity.host, identity.device, state, seen, notice)


def _run(one: RunningRun, seen: Watched) -> tuple[str, ...]:
    run, left = one.run, seen.left.get(one.run.id)
    state = "lost" if run.lease_lapsed else f"{run.epoch}/{run.epochs}"
    again = f" (attempt {run.attempt})" if run.attempt > 1 else ""
    return (
        label(run) + again,
        run.id,
        state,
        f"{one.loss[-1]:.4g}" if one.loss else "",
        sparkline(one.loss),
        f"{one.top1[-1]:.2f}" if one.top1 else "",
        sparkline(one.top1),
        "" if left is None else duration(left),
        run.worker or "",
    )


def _troubles(seen: Watched) -> list[tuple[str, str]]:
    """Return what went wrong, a line each: errors must not hide until a sweep ends."""
    lines = []
    for run in seen.sight.put_back[:2]:
        told = f"put back: {label(run)} ({run.id}): {run.reason}: {run.message}"
        lines.append((clean(told), "yellow"))
    if failed := seen.sight.first_failure:
        count = seen.sight.counts[RunState.FAILED]
        first = "first failure" if count > 1 else "failed"
        told = f"{first}: {label(failed)} ({failed.id}): {failed.reason}: {failed.message}"
        lines.append((clean(told), "red"))
    return lines


def _end(seen: Watched) -> str:
    """Return the last line: the time left, or what to do next."""
    sight = seen.sight
    if not seen.unfinished:
        return (
            "nothing is unfinished; next: lsqctl leaderboard" if any(sight.counts.values()) else ""
        )
    if seen.queue.seconds is not None:
        return f"about {duration(seen.queue.seconds)} until the queue is empty"
    if not any(not one.lost for one in seen.workers):
        return "no worker is at work; next: lsqctl worker --until-empty"
    return f"no estimate: {seen.queue.why}"


def _table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    give_way: Sequence[str],
    width: int | None,
) -> list[Text]:
    """Return a head and a line a row; columns without a value are left out."""
    from rich.cells import cell_len
    from rich.text import Text

    if not rows:
        return []
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(cell_len(row[i]) for row in cells) for i in range(len(columns))]
    kept = [i for i, needed in enumerate(widths) if needed]
    widths = [max(w, cell_len(name)) for w, name in zip(widths, columns, strict=True)]
    for name in give_way:
        if width is None or sum(widths[i] + _GAP for i in kept) - _GAP <= width:
            break
        kept = [i for i in kept if columns[i] != name]
    if width is not None and kept[0] == 0:  # then the first column is cut, and never a number
        excess = sum(widths[i] + _GAP for i in kept) - _GAP - width
        last = columns[kept[-1]] == "notice"
        widths[0] -= min(max(0, excess), max(0, widths[0] - 8)) if not last else 0
    lines = [Text((" " * _GAP).join(_pad(columns[i], columns[i], widths[i]) for i in kept), "dim")]
    for row in cells:
        line = Text()
        for place, i in enumerate(kept):
            line.append(" " * _GAP if place else "")
            line.append(_pad(row[i], columns[i], widths[i]), STATE_STYLES.get(row[i], ""))
        lines.append(line)
    return [_cut(line, width) for line in lines]


def _pad(text: str, column: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    missing = width - cell_len(text)
    if missing < 0:
        return set_cell_size(text, width - 1) + "…"
    return " " * missing + text if column in _RIGHT else text + " " * missing


def _cut(text: Text, width: int | None) -> Text:
    if width is None:
        text.rstrip()
    else:
        text.truncate(width, overflow="ellipsis")
    return text
