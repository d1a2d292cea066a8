"""Show a worker at work: a live table in a terminal, one line an event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lsqctl.cli.console import say, stderr_console
from lsqctl.cli.run_detail import IMITATED
from lsqctl.cli.table import Cell, Column, styled_row, table_lines, to_text
from lsqctl.errors import NotFound
from lsqctl.run import EndReason, Run, RunState
from lsqctl.text import format_duration, join_counts, pluralize, sanitize

if TYPE_CHECKING:
    from rich.text import Text

    from lsqctl.run import RunStatus
    from lsqctl.store import Store
    from lsqctl.worker.messages import ExitReport
    from lsqctl.worker.slots import Allocation
    from lsqctl.worker.supervisor import Observer

REDRAW_INTERVAL_SECONDS = 0.5
LINE_INTERVAL_SECONDS = 30.0
POLL_INTERVAL_SECONDS = 2.0
_BAR_WIDTH = 20
_COLUMNS = (
    Column("run", cut="end"),
    Column("", priority=1),
    Column("epoch", "right"),
    Column("loss", "right"),
    Column("Top-1", "right"),
    Column("left", "right"),
)


@contextmanager
def observe_worker(store: Store) -> Iterator[Observer]:
    """Yield the observer that fits where stderr goes."""
    console = stderr_console()
    if not console.is_terminal:
        yield LineObserver(store, say)
        return
    from rich.live import Live

    with Live(console=console, refresh_per_second=4, transient=True) as live:
        # through the live display's own console, or the lines and the table run into each other
        yield LiveObserver(
            store,
            lambda text: console.print(sanitize(text)),
            draw=live.update,
            width=lambda: console.width,
        )


class LineObserver:
    """Says each start and end in a line of its own, and a running run's state now and then."""

    def __init__(self, store: Store, say: Callable[[str], None]) -> None:
        self._store = store
        self._say = say
        self._started_at: dict[str, float] = {}
        self._next_line_at = time.monotonic() + LINE_INTERVAL_SECONDS
        self._next_poll_at = 0.0
        self._precision_unknown: set[str] = set()  # the ids of runs that have not decided it yet

    def started(self, run: Run, allocation: Allocation, threads: int) -> None:
        """Say which run began where."""
        self._started_at[run.id] = time.monotonic()
        self._precision_unknown.add(run.id)
        attempt_text = f", attempt {run.attempt}" if run.attempt > 1 else ""
        self._say(
            f"{run.id}  {run_label(run)}  started on {device_text(allocation)}, "
            f"{pluralize(threads, 'thread')}{attempt_text}"
        )

    def ended(self, run: Run, exit_report: ExitReport) -> None:
        """Say how it ended."""
        self._precision_unknown.discard(run.id)
        self._say(
            attempt_end_text(
                run, exit_report, time.monotonic() - self._started_at.pop(run.id, time.monotonic())
            )
        )

    def notify(self, text: str) -> None:
        """Pass a message on."""
        self._say(text)

    def tick(self) -> None:
        """Twice a minute, say where the running runs are; at once, which is slow."""
        self._tell_imitations()
        if time.monotonic() < self._next_line_at:
            return
        self._next_line_at = time.monotonic() + LINE_INTERVAL_SECONDS
        for run in self._store.runs.list(states=[RunState.RUNNING]):
            if run.id in self._started_at:
                self._say(f"{run.id}  {run_label(run)}  {progress_text(run)}")

    def _tell_imitations(self) -> None:
        """Say once of an attempt that its device imitates its precision, when it has decided it."""
        if not self._precision_unknown or time.monotonic() < self._next_poll_at:
            return
        self._next_poll_at = time.monotonic() + POLL_INTERVAL_SECONDS
        for run_id in sorted(self._precision_unknown):
            try:
                detail = self._store.runs.detail(run_id)
            except NotFound:  # removed meanwhile
                continue
            if "precision" in detail.environment:
                self._precision_unknown.discard(run_id)
            if detail.environment.get("imitated"):
                self._say(f"{run_id}  {run_label(detail.run)}  computes in {IMITATED}")


class LiveObserver(LineObserver):
    """Keeps a table of the slots and the queue at the bottom of the terminal."""

    def __init__(
        self,
        store: Store,
        say: Callable[[str], None],
        *,
        draw: Callable[[Text], None],
        width: Callable[[], int],
    ) -> None:
        super().__init__(store, say)
        self._draw, self._width = draw, width
        self._next_draw_at = 0.0
        self._row_run_ids: list[str] = []  # the run of each row, which keeps it until it has ended
        self._paces: dict[str, _Pace] = {}  # of running runs that have begun to train

    def started(self, run: Run, allocation: Allocation, threads: int) -> None:
        """Give it the row of one that has ended, or a new one."""
        ended = (n for n, run_id in enumerate(self._row_run_ids) if run_id not in self._started_at)
        row = next(ended, len(self._row_run_ids))
        self._row_run_ids[row : row + 1] = [run.id]
        self._paces.pop(run.id, None)
        super().started(run, allocation, threads)

    def tick(self) -> None:
        """Draw anew, a few times a second at most."""
        self._tell_imitations()
        if time.monotonic() < self._next_draw_at:
            return
        self._next_draw_at = time.monotonic() + REDRAW_INTERVAL_SECONDS
        self._draw(self._table())

    def _table(self) -> Text:
        counts = self._store.runs.counts()
        counts_text = join_counts(counts, " · ")
        running = {run.id: run for run in self._store.runs.list(states=[RunState.RUNNING])}
        rows = [
            styled_row(self._row(running[run_id]), {})
            for run_id in self._row_run_ids
            if run_id in running and run_id in self._started_at
        ]
        lines = table_lines(_COLUMNS, rows, self._width())
        return to_text([[Cell(counts_text, "dim")], *lines], self._width())

    def _row(self, run: Run) -> tuple[str, ...]:
        losses = [
            summary.last
            for summary in self._store.metrics.summaries(run.id)
            if (summary.name, summary.split) == ("loss", "train")
        ]
        return (
            run_label(run),
            _bar(run.step, run.total_steps),
            f"{run.epoch}/{run.epochs}",
            *([f"{losses[0]:.4g}"] if losses else [""]),
            top1_text(run),
            self._time_left(run),
        )

    def _time_left(self, run: Run) -> str:
        """Return an estimate of the time left, once this attempt has a rate."""
        moment = time.monotonic()
        if run.id not in self._paces:
            start = self._store.metrics.training_start(run.id)
            if start is None:
                return ""
            self._paces[run.id] = _Pace(start[0], moment - start[1])
        seconds = self._paces[run.id].seconds_left(run, moment)
        return "" if seconds is None else format_duration(seconds)


class _Pace:
    """The rate of the training steps of one attempt, by when its steps were told."""

    def __init__(self, step: int, moment: float) -> None:
        self._start = self._last = step, moment

    def seconds_left(self, run: Run, moment: float) -> float | None:
        """Return an estimate of the time left at a moment; None before steps were told.

        Steps are told some at a time: since the last ones were, time passes at the rate until then.
        """
        if run.step > self._last[0]:
            self._last = run.step, moment
        done = self._last[0] - self._start[0]
        if not done or run.total_steps <= run.step:
            return None
        per_step = (self._last[1] - self._start[1]) / done
        return max(0.0, per_step * (run.total_steps - run.step) - (moment - self._last[1]))


def _bar(step: int, total_steps: int) -> str:
    """Return how far a run is, as a bar.

    >>> _bar(5, 10)
    '━━━━━━━━━━──────────'
    """
    n_filled = round(_BAR_WIDTH * min(1.0, step / max(1, total_steps)))
    return "━" * n_filled + "─" * (_BAR_WIDTH - n_filled)


def run_label(run: Run | RunStatus) -> str:
    """Return a run's name, and its seed where that is not 0."""
    return run.name + (f" seed {run.seed}" if run.seed else "")


def device_text(allocation: Allocation) -> str:
    """Return where an attempt runs: the CPU, or GPUs."""
    return f"GPU {', '.join(allocation.gpus)}" if allocation.gpus else "cpu"


def top1_text(run: Run) -> str:
    """Return the latest Top-1 in percent, or nothing."""
    return "" if run.top1 is None else f"{run.top1:.2f} %"


def progress_text(run: Run) -> str:
    """Return where a run is, in words; before its first steps are told: that it starts."""
    if not run.total_steps:
        return "starting" if run.epochs else "evaluating"
    steps = f"step {run.step}/{run.total_steps}"
    return f"epoch {run.epoch}/{run.epochs}, {steps} {top1_text(run)}".rstrip()


def attempt_end_text(run: Run, exit_report: ExitReport, seconds: float) -> str:
    """Return one line on how an attempt ended, and what to do about it."""
    prefix = f"{run.id}  {run_label(run)}"
    if exit_report.reason is EndReason.WORKER_LOST:
        return f"{prefix}  lease lost: {exit_report.message}"
    if run.state is RunState.SUCCEEDED:
        top1 = top1_text(run) or "unknown"
        return f"{prefix}  succeeded in {format_duration(seconds)}: Top-1 {top1}"
    if exit_report.reason is EndReason.RUNG:
        going_on = f"goes on from its rung, after epoch {run.epoch} of {run.epochs}"
        return f"{prefix}  {run.message or going_on}"
    ends: dict[str, str] = {
        RunState.CANCELLED: f"cancelled; lsqctl runs retry {run.id} goes on from what it saved",
        EndReason.PREEMPTED: f"saved and requeued: {exit_report.message or 'asked to stop'}",
    }
    if text := ends.get(run.state) or ends.get(exit_report.reason):
        return f"{prefix}  {text}"
    advice = f"; lsqctl runs logs {run.id}" if run.state is RunState.FAILED else ""
    return f"{prefix}  {run.state}: {exit_report.reason}: {exit_report.message}{advice}"
