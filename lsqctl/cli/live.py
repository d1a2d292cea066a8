"""Show a worker at work: a live table in a terminal, one line an event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lsqctl.cli.render import duration, say, stderr
from lsqctl.leaderboard.clean import clean
from lsqctl.run import EndReason, Run, RunState
from lsqctl.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from lsqctl.store import Store
    from lsqctl.store.standing import Standing
    from lsqctl.worker.observer import Observer
    from lsqctl.worker.order import LastWords
    from lsqctl.worker.slots import Share

REFRESH_SECONDS = 0.5
LINE_SECONDS = 30.0


@contextmanager
def watching(store: Store) -> Iterator[Observer]:
    """Yield the observer that fits where stderr goes."""
    console = stderr()
    if not console.is_terminal:
        yield LineObserver(store, say)
        return
    from rich.live import Live

    with Live(console=console, refresh_per_second=4, transient=True) as live:
        # through the live display's own console, or the lines and the table run into each other
        yield LiveObserver(store, lambda text: console.print(clean(text)), live.update)


class LineObserver:
    """Says each start and end in a line of its own, and a running run's state now and then."""

    def __init__(self, store: Store, say: Callable[[str], None]) -> None:
        self._store = store
        self._say = say
        self._began: dict[str, float] = {}
        self._next_line = time.monotonic() + LINE_SECONDS

    def started(self, run: Run, share: Share) -> None:
        """Say which run began where."""
        self._began[run.id] = time.monotonic()
        again = f", attempt {run.attempt}" if run.attempt > 1 else ""
        self._say(
            f"{run.id}  {label(run)}  started on {place(share)}, "
            f"{counted(share.threads, 'thread')}{again}"
        )

    def ended(self, run: Run, words: LastWords) -> None:
        """Say how it ended."""
        self._say(ending(run, words, time.monotonic() - self._began.pop(run.id, time.monotonic())))

    def said(self, text: str) -> None:
        """Pass a message on."""
        self._say(text)

    def tick(self) -> None:
        """Twice a minute, say where the running runs are."""
        if time.monotonic() < self._next_line:
            return
        self._next_line = time.monotonic() + LINE_SECONDS
        for run in self._store.runs(states=[RunState.RUNNING]):
            if run.id in self._began:
                self._say(f"{run.id}  {label(run)}  {progress(run)}")


class LiveObserver(LineObserver):
    """Keeps a table of the slots and the queue at the bottom of the terminal."""

    def __init__(
        self, store: Store, say: Callable[[str], None], draw: Callable[[Table], None]
    ) -> None:
        super().__init__(store, say)
        self._draw = draw
        self._next_draw = 0.0

    def tick(self) -> None:
        """Draw anew, a few times a second at most."""
        if time.monotonic() < self._next_draw:
            return
        self._next_draw = time.monotonic() + REFRESH_SECONDS
        self._draw(self._table())

    def _table(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        counts = self._store.counts()
        told = " · ".join(f"{count} {state}" for state, count in counts.items() if count)
        table = Table(box=None, pad_edge=False, title=told, title_justify="left", title_style="dim")
        for name in ("run", "", "epoch", "Top-1", "left"):
            table.add_column(name, no_wrap=True, justify="left" if name in {"run", ""} else "right")
        for run in self._store.runs(states=[RunState.RUNNING]):
            if run.id in self._began:
                bar = ProgressBar(total=max(1, run.total_steps), completed=run.step, width=20)
                table.add_row(
                    Text(clean(label(run))),
                    bar,
                    f"{run.epoch}/{run.epochs}",
                    top1(run),
                    self._left(run),
                )
        return table

    def _left(self, run: Run) -> str:
        """Return an estimate of the time left, once there is a rate."""
        elapsed = time.monotonic() - self._began[run.id]
        if not run.step or run.total_steps <= run.step or run.attempt > 1:
            return ""
        return duration(elapsed / run.step * (run.total_steps - run.step))


def label(run: Run | Standing) -> str:
    """Return a run's name, and its seed where that is not 0."""
    return run.name + (f" seed {run.seed}" if run.seed else "")


def place(share: Share) -> str:
    """Return where an attempt runs: the CPU, or GPUs."""
    return f"GPU {', '.join(share.gpus)}" if share.gpus else "cpu"


def top1(run: Run) -> str:
    """Return the latest Top-1 in percent, or nothing."""
    return "" if run.top1 is None else f"{run.top1:.2f} %"


def progress(run: Run) -> str:
    """Return where a run is, in words; before its first steps are told: that it starts."""
    if not run.total_steps:
        return "starting" if run.epochs else "evaluating"
    return f"epoch {run.epoch}/{run.epochs}, step {run.step}/{run.total_steps} {top1(run)}".rstrip()


def ending(run: Run, words: LastWords, seconds: float) -> str:
    """Return one line on how an attempt ended, and what to do about it."""
    head = f"{run.id}  {label(run)}"
    if words.reason is EndReason.LOST:
        return f"{head}  lost lease: {words.message}"
    if run.state is RunState.SUCCEEDED:
        return f"{head}  succeeded in {duration(seconds)}: Top-1 {top1(run) or 'unknown'}"
    if run.state is RunState.CANCELLED:
        return f"{head}  cancelled; lsqctl runs retry {run.id} goes on from what it saved"
    if words.reason is EndReason.PREEMPTED:
        return f"{head}  saved and put back: {words.message or 'asked to stop'}"
    advice = f"; lsqctl runs logs {run.id}" if run.state is RunState.FAILED else ""
    return f"{head}  {run.state}: {words.reason}: {words.message}{advice}"
