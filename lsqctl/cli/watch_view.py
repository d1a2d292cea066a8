"""Draw one look at the queue as text that fits a terminal; in a pipe as wide as it needs to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lsqctl.cli.live import run_label
from lsqctl.cli.render import STATE_STYLES, format_duration
from lsqctl.leaderboard.clean import clean
from lsqctl.run import RunState

if TYPE_CHECKING:
    from rich.text import Text

    from lsqctl.api.watch import QueueStatus
    from lsqctl.store.sight import RunningRun, WorkerStatus

_BARS = "▁▂▃▄▅▆▇█"
_SPARKLINE_WIDTH = 12
_COLUMN_GAP = 2
_RESERVED_LINES = 6  # lines that are not running runs or workers
_RUN_COLUMNS = ("run", "id", "epoch", "loss", " ", "Top-1 %", "  ", "left", "worker")
_RUNS_HIDE_FIRST = ("worker", "id", " ", "loss", "epoch", "  ", "left")
_WORKER_COLUMNS = ("worker", "host", "device", "slots", "seen", "notice")
_WORKERS_HIDE_FIRST = ("host", "seen", "device")
_RIGHT_ALIGNED = frozenset({"epoch", "loss", "Top-1 %", "left", "slots", "seen"})


def render_status(status: QueueStatus, width: int | None = None, height: int | None = None) -> Text:
    """Return the status as lines no wider than ``width``, and about ``height`` of them."""
    from rich.text import Text

    max_runs = None if height is None else max(1, height - _RESERVED_LINES - min(len(status.workers), 5))
    lines = [_counts_line(status, width)]
    lines += _table_lines(_WORKER_COLUMNS, [_worker_row(entry) for entry in status.workers], _WORKERS_HIDE_FIRST, width)[
        : 6 if height else None
    ]
    running = [_running_row(entry, status) for entry in status.overview.running]
    lines += _table_lines(_RUN_COLUMNS, running[:max_runs], _RUNS_HIDE_FIRST, width)
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
    text = Text(f"{clean(status.sweep)}: " if status.sweep else "", style="bold")
    for number, (words, state) in enumerate(state_counts):
        text.append(" · " if number else "", style="dim")
        text.append(words, style=STATE_STYLES[state.value])
    text.append("" if state_counts else "no runs yet; lsqctl submit RECIPE")
    held = sum(group.count for group in status.overview.pending if group.held)
    text.append(f" ({held} held)" if held else "", style="yellow")
    return _truncate(text, width)


def _worker_row(worker_status: WorkerStatus) -> tuple[str, ...]:
    identity = worker_status.worker.identity
    state = "lost" if worker_status.stale else f"{worker_status.running_runs}/{identity.slots} busy"
    last_heartbeat = f"{format_duration(worker_status.seconds_since_heartbeat)} ago"
    notice = worker_status.notice or ("no renewal; its runs go back to the queue" if worker_status.stale else "")
    return (identity.name, identity.host, identity.device, state, last_heartbeat, notice)


def _running_row(running_run: RunningRun, status: QueueStatus) -> tuple[str, ...]:
    run, seconds_left = running_run.run, status.seconds_left.get(running_run.run.id)
    state = "lost" if run.lease_expired else f"{run.epoch}/{run.epochs}"
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
        message = f"put back: {run_label(run)} ({run.id}): {run.reason}: {run.message}"
        lines.append((clean(message), "yellow"))
    if failed := status.overview.first_failure:
        count = status.overview.counts[RunState.FAILED]
        first = "first failure" if count > 1 else "failed"
        message = f"{first}: {run_label(failed)} ({failed.id}): {failed.reason}: {failed.message}"
        lines.append((clean(message), "red"))
    return lines


def _last_line(status: QueueStatus) -> str:
    """Return the last line: the time left, or what to do next."""
    overview = status.overview
    if not status.n_active:
        return (
            "nothing is unfinished; next: lsqctl leaderboard" if any(overview.counts.values()) else ""
        )
    if status.estimate.seconds is not None:
        return f"about {format_duration(status.estimate.seconds)} until the queue is empty"
    if not any(not worker_status.stale for worker_status in status.workers):
        return "no worker is at work; next: lsqctl worker --until-empty"
    return f"no estimate: {status.estimate.reason}"


def _table_lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    hide_first: Sequence[str],
    width: int | None,
) -> list[Text]:
    """Return a head and a line a row; columns without a value are left out."""
    from rich.cells import cell_len
    from rich.text import Text

    if not rows:
        return []
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(cell_len(row[index]) for row in cells) for index in range(len(columns))]
    visible = [index for index, width_of_values in enumerate(widths) if width_of_values]
    widths = [max(value_width, cell_len(name)) for value_width, name in zip(widths, columns, strict=True)]
    for name in hide_first:
        if width is None or sum(widths[index] + _COLUMN_GAP for index in visible) - _COLUMN_GAP <= width:
            break
        visible = [index for index in visible if columns[index] != name]
    if width is not None and visible[0] == 0:  # then the first column is cut, and never a number
        excess = sum(widths[index] + _COLUMN_GAP for index in visible) - _COLUMN_GAP - width
        notice_is_last = columns[visible[-1]] == "notice"
        widths[0] -= min(max(0, excess), max(0, widths[0] - 8)) if not notice_is_last else 0
    lines = [Text((" " * _COLUMN_GAP).join(_pad(columns[index], columns[index], widths[index]) for index in visible), "dim")]
    for row in cells:
        line = Text()
        for position, index in enumerate(visible):
            line.append(" " * _COLUMN_GAP if position else "")
            line.append(_pad(row[index], columns[index], widths[index]), STATE_STYLES.get(row[index], ""))
        lines.append(line)
    return [_truncate(line, width) for line in lines]


def _pad(text: str, column: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    missing = width - cell_len(text)
    if missing < 0:
        return set_cell_size(text, width - 1) + "…"
    return " " * missing + text if column in _RIGHT_ALIGNED else text + " " * missing


def _truncate(text: Text, width: int | None) -> Text:
    if width is None:
        text.rstrip()
    else:
        text.truncate(width, overflow="ellipsis")
    return text
