"""Disturb pilots under a real Slurm at random, and check that nothing is lost, doubled or altered.

    python bench/cluster_soak.py --seed 1 --runs 30 --faults 40 [--report docs/cluster-soak.md]

A private Slurm of three nodes and a private PostgreSQL work a queue by ``lsqctl cluster work``,
while a nemesis, whose choices a seed fixes, cuts the power of nodes, cancels and preempts pilots,
kills daemons, the controller and the dispatcher, and lets the controller fall silent or come back
with an older state. Then an undisturbed dispatcher finishes. A run that was lost three times in a
row without a new checkpoint has failed, as everywhere: it is counted and tried again by hand.

Checked afterwards: the history of every run (``db check``), one result a run, checkpoints on the
disk, and weights, metrics and counts equal to the bit to those of a run that nobody disturbed; no
pilot stays. Exit code 1 when anything is violated. Needs root, Slurm and PostgreSQL.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from lsqctl.run import RunState
from lsqctl.store import Store, open_store

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.chaos import RETRIABLE, End, differences, end_of, files_wrong
from tests.cluster.private_slurm import PrivateSlurm, free_ports

ROOT = Path(__file__).resolve().parent.parent
RECIPE = """\
model: {name: resnet8}
data: {name: digits, batch_size: 64}
train: {epochs: 4, lr: 0.05}
"""
PROFILE = '[cpu]\ngres = ""\nidle = "10s"\nlead = "20s"\nmost = 3\n'
LEASE = 3.0
FAULTS = {
    "power cut": 3,
    "scancel": 3,
    "preemption": 3,
    "slurmd killed": 2,
    "dispatcher killed": 2,
    "dispatcher killed after sbatch": 1,
    "second dispatcher": 1,
    "controller silent": 1,
    "controller killed": 1,
    "controller restored": 1,
}


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run a private server and return the URL of a database in it."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    as_user = {"user": "postgres"} if os.getuid() == 0 else {}
    folder.mkdir()
    if as_user:
        shutil.chown(folder, "postgres")
    (port,) = free_ports(1)

    def call(program: str, *words: str) -> None:
        command = [str(programs / program), *words]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **as_user)

    data = ["-D", str(folder / "data")]
    call("initdb", *data, "-A", "trust", "-U", "lsqctl", "--no-sync", "-E", "UTF8", "--no-locale")
    options = f"-F -h 127.0.0.1 -p {port} -k {folder}"
    call("pg_ctl", *data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://lsqctl@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", *data, "-m", "immediate", "stop")


class Line:
    """The command line in a workspace that the pilots share."""

    def __init__(self, folder: Path, url: str, slurm: PrivateSlurm | None) -> None:
        programs = folder / "bin"
        programs.mkdir(parents=True)
        (programs / "lsqctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m lsqctl "$@"\n')
        (programs / "lsqctl").chmod(0o755)
        self.folder, self.home, self.url = folder, folder / ".lsqctl", url
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LSQCTL_")}
        self.environment = kept | {
            "LSQCTL_DB": url,
            "LSQCTL_HOME": str(self.home),
            "LSQCTL_LEASE": f"{LEASE:g}",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            **(slurm.environment if slurm else {}),
        }
        self.home.mkdir(mode=0o700)
        (self.home / "cluster.toml").write_text(PROFILE)
        (self.home / "cluster.toml").chmod(0o600)
        (folder / "run.yaml").write_text(RECIPE)

    def start(self, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        with (self.folder / "output.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "lsqctl", *words],
                cwd=self.folder,
                env=self.environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __call__(self, *words: str) -> None:
        if self.start(*words).wait() != 0:
            raise SystemExit(f"lsqctl {' '.join(words)} failed: see {self.folder / 'output.log'}")

    def store(self) -> Store:
        return open_store(self.url, lease_seconds=LEASE)

    def run_dir(self, run_id: str) -> Path:
        return self.home / "runs" / run_id


def nodes_at_work(store: Store) -> list[str]:
    """Return the nodes whose pilots own a run."""
    hosts = {one.identity.id: one.identity.host for one in store.workers.list()}
    return sorted({hosts[run.worker] for run in store.runs.list(states={RunState.RUNNING})})


class Nemesis:
    """What is done to the cluster; ``draw`` fixes every choice, not its moment."""

    def __init__(self, line: Line, slurm: PrivateSlurm, seed: int) -> None:
        self.line, self.slurm, self.draw = line, slurm, random.Random(seed)
        self.done: Counter[str] = Counter()
        self.dispatcher = self.another()

    def another(self, **variables: str) -> subprocess.Popen[bytes]:
        return self.line.start("cluster", "work", "cpu", "--poll", "1s", **variables)

    def strike(self, store: Store) -> None:
        """Do one thing; what is done to a node is done to one that trains, where there is one."""
        (kind,) = self.draw.choices(list(FAULTS), weights=list(FAULTS.values()))
        node = self.draw.choice(nodes_at_work(store) or self.slurm.names)
        self.done[kind] += 1
        match kind:
            case "power cut":
                self.slurm.cut_power(node)
                time.sleep(2)
                self.slurm.start_node(node)
            case "scancel":
                self.slurm.call("scancel", "--partition=main", f"--nodelist={node}", "--me")
            case "preemption":
                urgent = ("--partition=urgent", f"--nodelist={node}", "--output=/dev/null")
                self.slurm.call("sbatch", *urgent, text="#!/bin/sh\nsleep 2\n")
            case "slurmd killed":
                with suppress(ValueError, psutil.Error):  # it was killed or cut off just now
                    self.slurm.kill_daemon(node)
            case "controller silent" | "controller killed" | "controller restored":
                self.disturb_controller(kind)
            case _:
                self.disturb_dispatcher(kind)

    def disturb_controller(self, kind: str) -> None:
        seconds, state = self.draw.uniform(2, 12), self.slurm.folder / "state"
        if kind == "controller silent":
            self.slurm.processes["controller"].send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            self.slurm.processes["controller"].send_signal(signal.SIGCONT)
            return
        with tempfile.TemporaryDirectory(dir=self.slurm.folder) as older:
            if kind == "controller restored":
                shutil.copytree(state, older, dirs_exist_ok=True)
                time.sleep(seconds)
            self.slurm.kill_controller()
            if kind == "controller restored":
                shutil.rmtree(state)
                shutil.copytree(older, state)
        time.sleep(1)
        self.slurm.start_controller()

    def disturb_dispatcher(self, kind: str) -> None:
        if kind == "second dispatcher":
            second = self.another()
            time.sleep(5)
            second.kill()
            second.wait()
            return
        self.dispatcher.kill()
        self.dispatcher.wait()
        if kind == "dispatcher killed after sbatch":
            armed = self.another(LSQCTL_FAILPOINT="cluster.after-submit:kill")
            time.sleep(6)
            armed.kill()
            armed.wait()
        self.dispatcher = self.another()


def finish(line: Line) -> int:
    """Let an undisturbed dispatcher finish all; return how often a run was tried again by hand."""
    retried = 0
    for _ in range(3):
        line("cluster", "work", "cpu", "--until-empty", "--poll", "1s")
        with line.store() as store:
            failed = store.runs.list(states={RunState.FAILED})
        again = [run for run in failed if run.reason in RETRIABLE]
        for run in again:
            line("runs", "retry", run.id)
        retried += len(again)
        if not again:
            break
    return retried


def violations(line: Line, expected: dict[int, End]) -> list[str]:
    """Return all that is wrong when every run should have succeeded."""
    with line.store() as store:
        wrong = store.maintenance.check()
        runs = store.runs.list()
        if len(runs) != len(expected):
            wrong.append(f"{len(runs)} runs instead of {len(expected)}")
        for run in runs:
            results = sum(one.headline for one in store.results.evaluations(run.id))
            if run.state is not RunState.SUCCEEDED or results != 1:
                wrong.append(f"{run.id} is {run.state} ({run.message}), with {results} results")
                continue
            wrong += files_wrong(line, store, run)
            wrong += differences(run.id, end_of(line, store, run), expected[run.seed])
    return wrong


def pilots_left(slurm: PrivateSlurm, seconds: float = 60.0) -> list[str]:
    """Wait for the pilots to end for want of work, and name those that do not."""
    end = time.monotonic() + seconds
    while left := slurm.call("squeue", "-h", "-o", "%j %T"):
        if time.monotonic() > end:
            return [f"pilot {one} does not end" for one in left.splitlines()]
        time.sleep(1)
    return []


def soak(options: argparse.Namespace, folder: Path, url: str) -> tuple[Nemesis, int, list[str]]:
    """Work ``options.runs`` runs while ``options.faults`` faults happen, then in peace.

    Returns the nemesis, how often a run was tried again by hand, and what was wrong.
    """
    slurm = PrivateSlurm(folder / "slurm", nodes=3, gpus=1, cpus=1)
    slurm.start()
    try:
        line = Line(folder / "work", url, slurm)
        seeds = [word for seed in range(options.runs) for word in ("--seed", str(seed))]
        line("submit", "run.yaml", *seeds)
        nemesis = Nemesis(line, slurm, options.seed)
        with line.store() as store:
            end = time.monotonic() + options.minutes * 60
            while time.monotonic() < end and store.queue.remaining().runnable:
                time.sleep(nemesis.draw.uniform(1.0, options.pause))
                if nemesis.done.total() < options.faults:
                    nemesis.strike(store)
        nemesis.dispatcher.kill()
        nemesis.dispatcher.wait()
        retried = finish(line)
        return nemesis, retried, pilots_left(slurm)
    finally:
        slurm.stop()


def undisturbed(folder: Path, runs: int) -> dict[int, End]:
    """Return what each seed's run leaves, trained on this machine in peace."""
    folder.mkdir()
    line = Line(folder / "work", f"sqlite:///{folder / 'work' / '.lsqctl' / 'lsqctl.db'}", None)
    line("submit", "run.yaml", *[word for s in range(runs) for word in ("--seed", str(s))])
    line("worker", "--until-empty", "--slots", "2")
    with line.store() as store:
        return {run.seed: end_of(line, store, run) for run in store.runs.list()}


def report(options: argparse.Namespace, nemesis: Nemesis, retried: int, wrong: list[str]) -> str:
    line = nemesis.line
    with line.store() as store:
        endings = Counter(
            str(attempt.reason)
            for run in store.runs.list()
            for attempt in store.runs.detail(run.id).attempts
        )
        workers = sum(one.identity.name.startswith("slurm-") for one in store.workers.list())
    version = nemesis.slurm.call("sbatch", "--version") or "Slurm"
    logs = (path.read_text() for path in (line.home / "cluster" / "logs").glob("*.log"))
    preempted = sum("DUE TO PREEMPTION" in text for text in logs)

    def counted(counts: Counter[str]) -> str:
        return ", ".join(f"{count} {what}" for what, count in counts.most_common()) or "none"

    lines = [
        "# A soak of pilots under a real Slurm",
        "",
        f"Printed by `python bench/cluster_soak.py --seed {options.seed} --runs {options.runs} "
        f"--faults {options.faults} --pause {options.pause:g}`.",
        "",
        f"- {version}, three nodes on one machine ({os.cpu_count()} cores, "
        f"Python {platform.python_version()}), lease {LEASE:g} s",
        f"- runs: {options.runs}, digits resnet8, 4 epochs",
        f"- faults: {nemesis.done.total()} ({counted(nemesis.done)})",
        f"- pilots that became workers: {workers}; Slurm preempted {preempted}",
        f"- attempts: {endings.total()} ({counted(endings)})",
        f"- lost three times in a row without a new checkpoint, and tried again by hand: {retried}",
        f"- violations: {len(wrong)}",
        *(f"  - {one}" for one in wrong),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Disturb, check, and return 1 when anything was violated."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--pause", type=float, default=8.0, help="most seconds between faults")
    parser.add_argument("--minutes", type=float, default=30.0, help="give up after so many")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="lsqctl-soak-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        expected = undisturbed(folder / "peace", options.runs)
        with postgresql(folder / "pg") as url:
            nemesis, retried, wrong = soak(options, folder, url)
            wrong += violations(nemesis.line, expected)
            text = report(options, nemesis, retried, wrong)
        print(text)
        if wrong:
            kept = tempfile.mkdtemp(prefix=f"lsqctl-soak-{options.seed}-")
            shutil.copytree(nemesis.line.folder, kept, dirs_exist_ok=True)
            print(f"kept for a look: {kept}")
    if options.report:
        options.report.write_text(text)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
