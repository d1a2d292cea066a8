"""How many runs a second go through the queue: claimed and finished, by the real Store.

    python bench/claims.py [--runs N] [--processes 1 8 16] [--only tmpfs disk postgresql]

Worker processes begin at one barrier and claim and finish until the queue is empty. No training,
no idle waiting: what is measured is the database and the Store's own Python. Every run must end
succeeded at its first attempt, or the bench fails. SQLite lies on tmpfs (/dev/shm) and in the
folder for temporary files; PostgreSQL is a server of our own in /dev/shm with fsync on.
Goal: 300 pairs a second with 16 processes on tmpfs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from lsqctl.run import RunState  # noqa: E402
from lsqctl.store import open_store  # noqa: E402
from tests.store.conftest import _server_programs  # noqa: E402
from tests.store.samples import new  # noqa: E402

TMPFS = Path("/dev/shm")

WORKER = """
import sys
from lsqctl.store import open_store
from tests.store.samples import identity, result
url, name = sys.argv[1:]
store = open_store(url)
store.workers.register(identity(name))
store.runs.counts()
print("ready", flush=True)
sys.stdin.read()
done, outcome = 0, result()
while (claim := store.queue.claim(name)) is not None:
    store.queue.finish(claim.lease, outcome)
    done += 1
print(done, flush=True)
store.close()
"""


def pairs_a_second(url: str, runs: int, processes: int) -> float:
    """Return the rate of one round; raises AssertionError when a run was lost or doubled."""
    with open_store(url) as store:
        store.queue.enqueue([new(f"r{i}") for i in range(runs)])
    workers = [_start(url, f"w{i}") for i in range(processes)]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    began = time.perf_counter()
    for worker in workers:
        assert worker.stdin
        worker.stdin.close()
    done = [int(worker.stdout.readline()) for worker in workers if worker.stdout]
    seconds = time.perf_counter() - began
    assert [worker.wait() for worker in workers] == [0] * processes
    assert sum(done) == runs
    with open_store(url) as store:
        assert store.runs.counts()[RunState.SUCCEEDED] == runs
        assert {run.attempt for run in store.runs.list()} == {1}
    return runs / seconds


def _start(url: str, name: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    argv = [sys.executable, "-c", WORKER, url, name]
    return subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)


@contextmanager
def sqlite_in(folder: Path | None) -> Iterator[str]:
    """Give the URL of a new SQLite file; None: in the folder for temporary files."""
    with tempfile.TemporaryDirectory(prefix="lsqctl-bench-", dir=folder) as name:
        yield f"sqlite:///{name}/home/lsqctl.db"


@contextmanager
def postgresql() -> Iterator[str]:
    """Give the URL of a new database on a server of our own."""
    programs = _server_programs()
    if programs is None:
        raise SystemExit("no PostgreSQL here (initdb is missing)")
    home = Path(tempfile.mkdtemp(prefix="lsqctl-bench-", dir=TMPFS))
    as_user = {"user": "postgres"} if os.getuid() == 0 else {}
    if as_user:
        shutil.chown(home, "postgres")

    def call(program: str, *words: str) -> None:
        argv = [str(programs / program), "-D", str(home / "data"), *words]
        subprocess.run(argv, check=True, cwd=home, stdout=subprocess.DEVNULL, **as_user)

    call("initdb", "-A", "trust", "-U", "lsqctl", "-E", "UTF8", "--no-locale")
    options = f"-c listen_addresses='' -c unix_socket_directories={home}"
    call("pg_ctl", "-w", "-l", str(home / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://lsqctl@/postgres?host={home}"
    finally:
        call("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(home)


PLACES = {
    "tmpfs": lambda: sqlite_in(TMPFS),
    "disk": lambda: sqlite_in(None),
    "postgresql": postgresql,
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--only", nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{given.runs} runs, {os.cpu_count()} cores, load {load:.1f} before; pairs/s, median")
    for place in given.only:
        for processes in given.processes:
            rates = []
            for _ in range(given.repeat):
                with PLACES[place]() as url:
                    rates.append(pairs_a_second(url, given.runs, processes))
            spread = f"{min(rates):.0f} to {max(rates):.0f}"
            print(
                f"{place:12} {processes:3} processes {statistics.median(rates):7.0f}   ({spread})"
            )


if __name__ == "__main__":
    main()
