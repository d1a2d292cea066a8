"""How long a claimed run waits for its first training step, from a warmed parent and without one.

    python bench/first_step.py [--repeat N] [--slots N]

A worker is idle (and warm) when a run is submitted to it, one after another, each with a seed of
its own.  Both moments are the database's own: the claim is the attempt's start, and the first step
follows upon the commit of the checkpoint of step 0.  Everything between is counted: fork or Python
and its imports, database, data, model, and for w4a4 the evaluation of its full-precision parent and
the calibration.
Goal: digits/resnet8-fp32 within 0.7 s from a warmed parent.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lsqctl.run import RunState
from lsqctl.store import Store, open_store

RECIPES = ("digits/resnet8-fp32", "digits/resnet8-w4a4")


def lsqctl(folder: Path, *words: str) -> str:
    """Run a command in a workspace and return what it printed."""
    command = [sys.executable, "-m", "lsqctl", *words]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


@contextmanager
def working(folder: Path, slots: int, warm: bool) -> Iterator[None]:
    """Have a worker in the background."""
    command = [sys.executable, "-m", "lsqctl", "worker", "--slots", str(slots)]
    environment = os.environ | {"LSQCTL_WARM": str(int(warm))}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def finished(store: Store, run_id: str) -> str:
    """Wait for a run that must succeed."""
    while (run := store.runs.detail(run_id).run).state is not RunState.SUCCEEDED:
        assert run.state is not RunState.FAILED, run.message
        time.sleep(0.2)
    return run_id


def waited(store: Store, run_id: str) -> float:
    """Return the seconds from a finished run's claim to its first step."""
    attempt = store.runs.detail(run_id).attempts[-1]
    begun = next(one.created_at for one in store.checkpoints.list(run_id) if one.step == 0)
    return (begun - attempt.started_at).total_seconds()


def measured(folder: Path, recipe: str, *, warm: bool, repeat: int, slots: int) -> list[float]:
    """Return what each of several runs waited."""
    times = []
    with working(folder, slots, warm), open_store(f"sqlite:///{folder}/.lsqctl/lsqctl.db") as store:
        for seed in range(repeat + 1):
            options = ("-q", "--set", "train.epochs=1", "--seed", str(100 * (1 + warm) + seed))
            ids = lsqctl(folder, "submit", recipe, *options).split()
            times.append([waited(store, finished(store, one)) for one in ids][-1])
    return times[1:]  # the first one found the worker warming up


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--slots", type=int, default=1)
    given = parser.parse_args()
    print(f"{given.repeat} runs each; {os.cpu_count()} cores, {given.slots} slot(s)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lsqctl(folder, "run", RECIPES[0])  # the parent of every w4a4
        for recipe in RECIPES:
            for warm in (True, False):
                options = {"repeat": given.repeat, "slots": given.slots}
                taken = measured(folder, recipe, warm=warm, **options)
                what = "warmed parent" if warm else "Python anew"
                median, worst = statistics.median(taken), max(taken)
                print(f"{recipe:22} {what:14} median {median:6.3f} s   worst {worst:6.3f} s")


if __name__ == "__main__":
    main()
