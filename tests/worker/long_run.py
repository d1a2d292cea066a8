"""A run of some seconds, to be disturbed by real signals, and what it must come to."""

from __future__ import annotations

import json

import psutil

from lsqctl.run import RunState
from lsqctl.store import Store, open_store
from tests.conftest import TINY, CommandLine
from tests.worker.injected import inject

# some seconds of steps, so that a signal finds it at work
LONG = TINY.replace("epochs: 2", "epochs: 8").replace("batch_size: 256", "batch_size: 64")
# for tests in which it must not end of itself, however fast the machine
ENDLESS = LONG.replace("epochs: 8", "epochs: 1000")

_PACE = """
import time

def failpoint(name, _real=failpoint):
    _real(name)
    if name == "train.step":
        time.sleep(0.02)
"""


def store_of(cli: CommandLine) -> Store:
    return open_store(f"sqlite:///{cli.folder / '.lsqctl' / 'lsqctl.db'}", lease_seconds=1)


def submitted(cli: CommandLine, text: str, *options: str) -> str:
    cli.write("mine.yaml", text)
    return cli("submit", "mine.yaml", "-q", *options).stdout.split()[-1]


def slow_down(cli: CommandLine) -> None:
    """Let each step take 20 ms or more: what takes a command to do finds the run still at work."""
    inject(cli, training_finetuning=_PACE)


def trainers(worker: int) -> list[psutil.Process]:
    """Return the processes that train: those forked from the fork server."""
    return [one for child in psutil.Process(worker).children() for one in child.children()]


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def at_work(store: Store, run_id: str, step: int = 30) -> bool:
    run = store.runs.detail(run_id).run
    return run.state is RunState.RUNNING and run.step >= step


def final_hashes(cli: CommandLine, run_id: str) -> dict[str, str]:
    """Return the sha256 of the last checkpoint's tensors."""
    folders = sorted((cli.folder / ".lsqctl" / "runs" / run_id).glob("ckpt-*"))
    manifest = json.loads((folders[-1] / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest["files"].items()}


def reproducible(store: Store, run_id: str) -> list[tuple[str, str, int, float]]:
    rows = [(one.name, one.split, one.step, one.value) for one in store.metrics.points(run_id)]
    return sorted(row for row in rows if row[0] != "seconds")


def assert_same_end(cli: CommandLine, run_id: str, uninterrupted) -> None:
    """The law of exact resume, seen from outside."""
    with store_of(cli) as store:
        assert store.runs.detail(run_id).run.state is RunState.SUCCEEDED
        assert reproducible(store, run_id) == uninterrupted[1]
    assert final_hashes(cli, run_id)["model.pt"] == uninterrupted[0]
