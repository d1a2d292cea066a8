"""Disturb the queue at random and check that nothing is lost, doubled or altered.

    python bench/chaos.py --seeds 200 --lease 1 [--forked] [--report docs/chaos-report.md]

For each seed, in a scratch workspace: submit a parent, its children and duplicates; let two workers
work while a nemesis kills, stops and continues workers and trainers and arms failpoints; then let
one undisturbed worker finish. Checked afterwards: the history of every run (``db check``), that no
acknowledged submission is lost or doubled, one result a run, metric rows, counts and final weights
equal to the bit to those of undisturbed runs, no temporary file, and no process left over.

A seed fixes every decision of the nemesis, not the moment at which the system gets to it.
Exit code 1 when anything is violated.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lsqctl.errors import DataError, StoreError
from lsqctl.failpoint import FAILPOINTS
from lsqctl.run import EndReason, Run, RunState
from lsqctl.store import Store, open_store
from lsqctl.training.checkpoint import verify_checkpoint
from lsqctl.training.checkpoint_files import read_manifest
from tests.warm import WarmProcess, WarmStarter

BASE = """\
model: {name: resnet8}
data: {name: digits, batch_size: 128}
train: {epochs: 4, lr: 0.05}
"""
CHILDREN = (
    BASE.replace("{name: resnet8}", "{name: resnet8, weights: {run: base}}")
    + "sweep:\n  zip: {quant.weight_bits: [4, 2], quant.act_bits: [4, 2]}\n"
)
NAMES = ("base", "children-w4a4", "children-w2a2")
Process = subprocess.Popen[str] | WarmProcess
PATIENCE = 120.0  # seconds within which what must happen has happened
# a worker takes seconds to begin: were it killed as often as its children, none would train
STRIKES = {
    "kill child": 4,
    "stop child": 4,
    "stop worker": 2,
    "term worker": 1,
    "kill worker": 1,
    "kill both": 1,
}
RETRIABLE = {EndReason.INFRA, EndReason.WORKER_LOST, EndReason.PARENT}


@dataclass(frozen=True)
class End:
    """What a run leaves that must not depend on what happened to it."""

    weights: str
    metrics: tuple[tuple[str, str, int, float], ...]
    results: tuple[tuple[Any, ...], ...]


@dataclass
class Report:
    """One seed: what was done to it, and what was wrong afterwards."""

    seed: int
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    failpoints: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)  # of attempts, by reason
    runs: int = 0
    retried: int = 0
    violations: list[str] = field(default_factory=list)

    def line(self) -> str:
        attempts = self.endings.total()
        what = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        verdict = "ok" if not self.violations else f"{len(self.violations)} VIOLATIONS"
        return (
            f"seed {self.seed:4}  {verdict}  {self.runs} runs, {attempts} attempts, "
            f"{self.failpoints.total()} failpoints; {what or 'no signal'}  ({self.seconds:.1f} s)"
        )


class Workspace:
    """A folder with recipes, and the real command line in it."""

    starter: ClassVar[WarmStarter | None] = None  # forks the commands, where they are to be forked

    def __init__(self, folder: Path, lease: float) -> None:
        self.folder, self.lease = folder, lease
        self.once = folder / "once"
        self.once.mkdir()
        (folder / "base.yaml").write_text(BASE)
        (folder / "children.yaml").write_text(CHILDREN)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("LSQCTL_")}
        root = Path(__file__).resolve().parent.parent
        path = os.pathsep.join(filter(None, [str(root), kept.get("PYTHONPATH")]))
        self.environment = kept | {
            "LSQCTL_LEASE": str(lease),
            "LSQCTL_FAILPOINT_ONCE": str(self.once),
            "PYTHONPATH": path,
            "PYTHONWARNINGS": "ignore",
        }

    def start(self, *words: str, failpoint: str = "") -> Process:
        """Start a command; its words go to ``output.log``, its data to a pipe."""
        environment = self.environment | {"LSQCTL_FAILPOINT": failpoint}
        with (self.folder / "output.log").open("a") as log:
            if self.starter:
                return self.forked(self.starter, words, environment, log.fileno())
            return subprocess.Popen(
                [sys.executable, "-m", "lsqctl", *words],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log if words[0] == "worker" else subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def forked(
        self, starter: WarmStarter, words: Sequence[str], environment: dict[str, str], log: int
    ) -> WarmProcess:
        """Start a command without the start of a Python, which is most of what a seed costs."""
        if words[0] != "worker":
            return starter.start(words, self.folder, environment)
        with open(os.devnull) as nothing:
            streams = (nothing.fileno(), log, log)
            return starter.start(words, self.folder, environment, streams=streams)

    def __call__(self, *words: str, failpoint: str = "") -> tuple[int, list[str]]:
        """Run a command to its end and return its exit code and the words of its output."""
        process = self.start(*words, failpoint=failpoint)
        output, _ = process.communicate(timeout=PATIENCE)
        return process.wait(), (output or "").split()

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        url = f"sqlite:///{self.folder / '.lsqctl' / 'lsqctl.db'}"
        with open_store(url, lease_seconds=self.lease) as store:
            yield store

    def run_dir(self, run_id: str) -> Path:
        return self.folder / ".lsqctl" / "runs" / run_id


def end_of(space: Workspace, store: Store, run: Run) -> End:
    """Return what a succeeded run left; ``seconds`` alone may differ."""
    last = store.checkpoints.list(run.id)[0]
    weights = read_manifest(Path(last.directory))["files"]["model.pt"]["sha256"]
    rows = ((one.name, one.split, one.step, one.value) for one in store.metrics.points(run.id))
    results = (
        (e.selection, e.headline, e.n_correct, e.step, e.hits)
        for e in store.results.evaluations(run.id)
    )
    return End(weights, tuple(sorted(row for row in rows if row[0] != "seconds")), tuple(results))


def undisturbed(lease: float) -> dict[str, End]:
    """Train every recipe once, in peace."""
    with tempfile.TemporaryDirectory(prefix="lsqctl-chaos-") as name:
        space = Workspace(Path(name), lease)
        space("submit", "children.yaml", "-q")
        space("worker", "--until-empty", "--slots", "2")
        with space.store() as store:
            ends = {run.name: end_of(space, store, run) for run in store.runs.list()}
    assert set(ends) == set(NAMES), ends.keys()
    return ends


class Nemesis:
    """Two workers, and what is done to them."""

    def __init__(self, space: Workspace, report: Report) -> None:
        self.space, self.report = space, report
        self.draw = random.Random(report.seed)
        self.workers: list[Process] = []
        self.asleep: list[tuple[float, psutil.Process]] = []

    def rage(self, seconds: float) -> None:
        """Disturb for a while, or until every run has ended."""
        end = time.monotonic() + seconds
        with self.space.store() as store:
            while time.monotonic() < end:
                self.wake(time.monotonic())
                self.workers = [one for one in self.workers if one.poll() is None]
                while len(self.workers) < 2:
                    self.workers.append(self.another())
                time.sleep(self.draw.uniform(0.1, 1.5) * self.space.lease)
                self.strike()
                with contextlib.suppress(StoreError):
                    if not any(store.queue.remaining()):
                        return

    def another(self) -> Process:
        """Start a worker, most of the time with failpoints armed."""
        names = [name for name in FAILPOINTS if not name.startswith(("submit", "cluster"))]
        specs = [self.spec(name) for name in self.draw.sample(names, self.draw.randint(0, 4))]
        return self.space.start("worker", "--slots", "2", failpoint=",".join(specs))

    def spec(self, name: str) -> str:
        sleep = f"sleep:{self.draw.uniform(0.5, 2.5) * self.space.lease:.2f}"
        action = self.draw.choice(["kill", "raise", sleep, "term"])
        return f"{name}:{action}:{self.draw.choice([1, 1, 2, 5])}"

    def strike(self) -> None:
        """Do one thing to one worker, to a process below it, or to both."""
        (kind,) = self.draw.choices(list(STRIKES), weights=list(STRIKES.values()))
        worker = self.draw.choice(self.workers)
        below = self.draw.random()
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(worker.pid)
            children = process.children(recursive=True)
            kind = kind if children else "stop worker"  # one that has only begun may begin
            victims = [process] if "worker" in kind or "both" in kind else []
            if children and ("child" in kind or "both" in kind):
                victims.append(children[int(below * len(children))])
            for victim in victims:
                self.hit(kind, victim)
            if victims:
                self.report.faults[kind] += 1

    def hit(self, kind: str, victim: psutil.Process) -> None:
        verb = kind.partition(" ")[0]
        if verb == "stop":
            until = time.monotonic() + self.draw.uniform(0.2, 3.0) * self.space.lease
            self.asleep.append((until, victim))
        number = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}[verb]
        victim.send_signal(number)

    def wake(self, now: float) -> None:
        """Continue what has been stopped for long enough."""
        for until, victim in [one for one in self.asleep if one[0] <= now]:
            self.asleep.remove((until, victim))
            with contextlib.suppress(psutil.Error):
                victim.resume()

    def rest(self) -> None:
        """Wake everything and stop every worker as a person would, by SIGTERM."""
        self.wake(float("inf"))
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.report.violations.append(f"worker {worker.pid} does not end on SIGTERM")
                worker.kill()


def submissions(space: Workspace, draw: random.Random, report: Report) -> set[str]:
    """Submit until it is acknowledged, everything twice, and one run once more; return the ids."""
    kinds = [
        "",
        "submit.before-commit:kill",
        "submit.after-commit:kill",
        "submit.after-commit:raise",
    ]
    acknowledged: set[str] = set()
    for words in (["children.yaml"], ["base.yaml", "children.yaml"]):
        code, ids = space("submit", *words, "-q", failpoint=draw.choice(kinds))
        if code:
            code, ids = space("submit", *words, "-q")
        if code or len(ids) < len(NAMES) - 1:  # a parent that is there is not named again
            report.violations.append(f"submit ended with {code} and the ids {ids}")
        acknowledged |= set(ids)
    if len(acknowledged) != len(NAMES):
        report.violations.append(f"the same recipes were queued twice: {acknowledged}")
    _, ids = space("submit", "base.yaml", "--if-exists", "rerun", "-q")
    return acknowledged | set(ids)


def finish(space: Workspace, report: Report) -> None:
    """Let an undisturbed worker finish all, trying again what was disturbed too often."""
    for _ in range(3):
        code, _ = space("worker", "--until-empty", "--slots", "2")
        if code:
            report.violations.append(f"the undisturbed worker ended with {code}")
        with space.store() as store:
            failed = store.runs.list(states={RunState.FAILED})
        if not failed:
            return
        for run in failed:
            if run.reason not in RETRIABLE:
                report.violations.append(f"{run.id} failed as {run.reason}: {run.message}")
            if run.reason is not EndReason.PARENT:
                report.retried += 1
                space("runs", "retry", run.id)


def violations(space: Workspace, acknowledged: set[str], expected: dict[str, End]) -> list[str]:
    """Return all that is wrong in a workspace where every run should have succeeded."""
    with space.store() as store:
        runs = store.runs.list()
        wrong = store.maintenance.check()
        rows = Counter(row.run_id for row in store.results.board_rows())
        if {run.id for run in runs} != acknowledged:
            wrong.append(f"acknowledged {sorted(acknowledged)}, stored {[r.id for r in runs]}")
        for run in runs:
            if run.state is not RunState.SUCCEEDED or rows[run.id] != 1:
                wrong.append(f"{run.id} is {run.state}, with {rows[run.id]} rows on the board")
                continue
            wrong += files_wrong(space, store, run)
            found = end_of(space, store, run)
            wrong += differences(f"{run.id} ({run.name})", found, expected[run.name])
    return wrong + processes_left(space)


def differences(run: str, found: End, wanted: End) -> list[str]:
    """Say what a run left that is not as an undisturbed one leaves it."""
    return [
        f"{run}: its {name} are not those of an undisturbed run"
        for name in ("weights", "metrics", "results")
        if getattr(found, name) != getattr(wanted, name)
    ]


def files_wrong(space: Workspace, store: Store, run: Run) -> list[str]:
    """Compare the folders on the disk with the rows that tell of them, byte by byte."""
    known = {one.directory: one.sha256 for one in store.checkpoints.list(run.id)}
    try:
        found = {str(one): verify_checkpoint(one) for one in space.run_dir(run.id).glob("ckpt*")}
    except DataError as error:
        return [f"{run.id}: {error}"]
    odd = sorted(known.keys() ^ found.keys())
    differing = [one for one in known.keys() & found.keys() if known[one] != found[one]]
    return [f"{run.id}: on the disk or in the database alone, or not the same: {one}"
            for one in (*odd, *differing)]  # fmt: skip


def processes_left(space: Workspace, seconds: float = 10.0) -> list[str]:
    """Wait for every process of the workspace to end, and name those that do not."""
    end = time.monotonic() + seconds
    while True:
        found = []
        for process in psutil.process_iter(["cwd", "cmdline", "status"]):
            if process.info["cwd"] == str(space.folder) and process.info["status"] != "zombie":
                found.append(f"process {process.pid} is left: {process.info['cmdline']}")
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)


def one_seed(seed: int, options: argparse.Namespace, expected: dict[str, End]) -> Report:
    """Disturb one workspace, let it finish and check it; keep it when something is wrong."""
    report, began = Report(seed), time.monotonic()
    space = Workspace(Path(tempfile.mkdtemp(prefix=f"lsqctl-chaos-{seed}-")), options.lease)
    nemesis = Nemesis(space, report)
    try:
        acknowledged = submissions(space, nemesis.draw, report)
        nemesis.rage(options.seconds)
        nemesis.rest()
        finish(space, report)
        report.violations += violations(space, acknowledged, expected)
        with space.store() as store:
            tries = [one for run in store.runs.list() for one in store.runs.detail(run.id).attempts]
    except (StoreError, DataError, OSError, subprocess.TimeoutExpired) as error:
        report.violations.append(f"{type(error).__name__}: {error}")
        tries = []
    finally:
        nemesis.rest()
    report.runs = len({one.run_id for one in tries})
    report.endings = Counter(str(one.reason) for one in tries)
    report.failpoints = Counter(path.name for path in space.once.iterdir())
    report.seconds = time.monotonic() - began
    if report.violations:
        print(f"  kept for a look: {space.folder}", flush=True)
    else:
        shutil.rmtree(space.folder)
    return report


def say(report: Report, options: argparse.Namespace) -> None:
    print(report.line(), flush=True)
    for violation in report.violations:
        print(f"  {violation}", flush=True)
    if report.violations:
        print(
            f"  the same decisions again: python bench/chaos.py --first {report.seed} --seeds 1 "
            f"--lease {options.lease:g} --seconds {options.seconds:g}",
            flush=True,
        )


def summary(reports: list[Report], options: argparse.Namespace) -> list[str]:
    """Return the lines that sum up, as Markdown."""
    import torch

    def total(name: str) -> str:
        counted: Counter[str] = sum((getattr(one, name) for one in reports), Counter())
        return ", ".join(f"{count} {what}" for what, count in counted.most_common()) or "none"

    bad = [one for one in reports if one.violations]
    seconds = [one.seconds for one in reports]
    never = sorted(set(FAILPOINTS) - {name for one in reports for name in one.failpoints})
    return [
        f"- seeds: {len(reports)} ({reports[0].seed} to {reports[-1].seed}), lease "
        f"{options.lease:g} s, disturbed for up to {options.seconds:g} s each",
        f"- runs: {sum(one.runs for one in reports)}, of which "
        f"{sum(one.retried for one in reports)} times one was disturbed three times in a row "
        "without progress and tried again by hand",
        f"- attempts: {sum(one.endings.total() for one in reports)} ({total('endings')})",
        f"- signals: {total('faults')}",
        f"- failpoints that fired: {total('failpoints')}",
        f"- failpoints that never fired: {', '.join(never) or 'none'}",
        f"- seconds for a seed: median {statistics.median(seconds):.1f}, most {max(seconds):.1f}",
        f"- on: {os.cpu_count()} cores, Python {platform.python_version()}, torch "
        f"{torch.__version__}, SQLite {sqlite3.sqlite_version}",
        f"- violations: {sum(len(one.violations) for one in bad)} in {len(bad)} seeds",
    ]


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--lease", type=float, default=1.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=12.0, help="of disturbance for each seed")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time")
    parser.add_argument("--forked", action="store_true", help="commands as the tests start them")
    parser.add_argument("--report", type=Path, help="write what is summed up as Markdown")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds, sum up, and return 1 when anything was violated."""
    options = options_of(arguments)
    if options.forked:
        Workspace.starter = WarmStarter()
    expected = undisturbed(options.lease)
    reports: list[Report] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        seeds = range(options.first, options.first + options.seeds)
        for report in pool.map(lambda seed: one_seed(seed, options, expected), seeds):
            say(report, options)
            reports.append(report)
    lines = summary(reports, options)
    print("\n".join(lines))
    if options.report:
        command = f"python bench/chaos.py --seeds {options.seeds} --lease {options.lease:g}"
        command += " --forked" * options.forked
        head = ["# What chaos found", "", f"`{command}` printed this; see docs/chaos.md.", ""]
        options.report.write_text("\n".join([*head, *lines]) + "\n")
    return int(any(report.violations for report in reports))


if __name__ == "__main__":
    sys.exit(main())
