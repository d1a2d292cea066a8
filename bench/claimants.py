"""What one PostgreSQL carries: the calls of 10 to 1,000 workers, and what each costs the server.

    python bench/claimants.py [--workers 10 30 100 300 1000] [--clients 2]

So many workers register, claim a run each, renew its lease, look for dead ones, log metrics and
finish, by the real Store against a server of our own. A few client processes make the calls of all
of them, one after the other as fast as they can: the clock of a busy machine says little, so what
is told is the CPU time that the server's processes took for a call, and from that, by how often a
worker makes it, how many cores of the server they keep busy. A call's median and 99th percentile
are of the whole way, with the client's Python. The server lies in /dev/shm with fsync on: what a
disk adds to a commit is not in it.

Every lease must be kept and every run end succeeded at its first attempt, or the bench fails.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.claims import postgresql
from lsqctl.events import Metric, Progress
from lsqctl.run import Lease, RunState
from lsqctl.settings import Settings
from lsqctl.store import Store, open_store
from lsqctl.worker.recorder import FLUSH_SECONDS
from tests.store.samples import identity, new, result

POINTS = 10  # in a batch of metrics
CALLS = 600  # at least, of a kind that can be made again: the kernel counts CPU by hundredths
SETTINGS = Settings(Path(), "", Path())  # the defaults: a lease of 30 s


@dataclass(frozen=True)
class Cost:
    """Of one call: milliseconds on the wall, and of the server's CPU."""

    calls: int
    median: float
    p99: float
    server: float


@dataclass(frozen=True)
class Kind:
    """A kind of call: what it does with a worker's lease, and how often each worker makes it."""

    call: Callable[[Store, Lease, int], object]
    seconds: Callable[[int], float] | None  # between two, among so many workers; None: once a run

    def cores(self, workers: int, cost: Cost) -> float:
        """Return how many cores of the server the calls of all workers keep busy."""
        return workers / self.seconds(workers) * cost.server / 1e3 if self.seconds else 0.0


def renew(store: Store, lease: Lease, index: int) -> None:
    store.queue.renew(lease)


def heartbeat(store: Store, lease: Lease, index: int) -> None:
    store.workers.heartbeat(f"w{index}")


def reap(store: Store, lease: Lease, index: int) -> None:
    assert store.queue.reap() == []


def log(store: Store, lease: Lease, index: int) -> None:
    step = _next_step()
    points = [Metric(f"m{n}", "train", step, 0.5) for n in range(POINTS)]
    store.metrics.log(lease, points, Progress(step=step, total_steps=10**6, epoch=0, epochs=90))


def finish(store: Store, lease: Lease, index: int) -> None:
    store.queue.finish(lease, result())


KINDS = {
    "renew a lease": Kind(renew, lambda _: SETTINGS.heartbeat_seconds),
    "heartbeat": Kind(heartbeat, lambda _: SETTINGS.heartbeat_seconds),
    "look for dead workers": Kind(reap, SETTINGS.reap_seconds),
    f"log {POINTS} points": Kind(log, lambda _: FLUSH_SECONDS),
    "finish": Kind(finish, None),
}


@cache
def _store(url: str) -> Store:
    return open_store(url, lease_seconds=3600)  # a busy machine takes long to call for 1,000


_steps = iter(range(10**9))


def _next_step() -> int:
    return next(_steps)


def claim_all(url: str, indices: Sequence[int]) -> tuple[list[tuple[int, Lease]], list[float]]:
    """Claim a run for each of the workers; return their leases and the seconds of each call."""
    leases, seconds = [], []
    for index in indices:
        began = time.perf_counter()
        claim = _store(url).queue.claim(f"w{index}")
        seconds.append(time.perf_counter() - began)
        assert claim is not None
        leases.append((index, claim.lease))
    return leases, seconds


def call_all(url: str, kind: str, times: int, leases: Sequence[tuple[int, Lease]]) -> list[float]:
    """Make a kind of call so often for each of the workers; return the seconds of each."""
    seconds = []
    for _ in range(times):
        for index, lease in leases:
            began = time.perf_counter()
            KINDS[kind].call(_store(url), lease, index)
            seconds.append(time.perf_counter() - began)
    return seconds


class Server:
    """The processes of a PostgreSQL, and the CPU that they took."""

    def __init__(self, url: str) -> None:
        folder = Path(url.partition("?host=")[2])
        pid = (folder / "data" / "postmaster.pid").read_text().split()[0]
        self._main = psutil.Process(int(pid))

    def cpu_seconds(self) -> float:
        """Return what those at work took until now; the clients keep their connections."""
        total = 0.0
        for process in (self._main, *self._main.children()):
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def connection_megabytes(self) -> float:
        """Return the median memory of a connection's process, shared pages counted in parts."""
        sizes = [
            process.memory_full_info().pss / 1e6
            for process in self._main.children()
            if "idle" in " ".join(process.cmdline())
        ]
        return statistics.median(sizes)


def measured(server: Server, call: Callable[[], list[list[float]]]) -> Cost:
    before = server.cpu_seconds()
    seconds = sorted(one for part in call() for one in part)
    spent = server.cpu_seconds() - before
    return Cost(
        len(seconds),
        1e3 * statistics.median(seconds),
        1e3 * seconds[int(0.99 * (len(seconds) - 1))],
        1e3 * spent / len(seconds),
    )


@contextmanager
def clients(count: int) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        yield pool


def simulate(workers: int, count: int) -> tuple[dict[str, Cost], float, float]:
    """Return the cost of each kind of call, megabytes a connection, and bytes a metric point."""
    with postgresql() as url, clients(count) as pool, open_store(url) as store:
        store.queue.enqueue([new(f"r{i}") for i in range(2 * workers)])
        for index in range(workers):
            store.workers.register(identity(f"w{index}"))
        server = Server(url)
        parts = [range(first, workers, count) for first in range(count)]
        list(pool.map(partial(claim_all, url), [[] for _ in parts]))
        claimed: list[tuple[list[tuple[int, Lease]], list[float]]] = []

        def claim() -> list[list[float]]:
            claimed.extend(pool.map(partial(claim_all, url), parts))
            return [seconds for _, seconds in claimed]

        costs = {"claim": measured(server, claim)}
        leases = [part for part, _ in claimed]
        for name, kind in KINDS.items():
            times = max(1, CALLS // workers) if kind.seconds else 1
            calls = partial(call_all, url, name, times)
            costs[name] = measured(server, lambda calls=calls: list(pool.map(calls, leases)))
            if name.startswith("log"):
                megabytes, point_bytes = server.connection_megabytes(), _point_bytes(store)
        assert store.runs.counts()[RunState.SUCCEEDED] == workers
        assert store.maintenance.check() == []
    return costs, megabytes, point_bytes


def _point_bytes(store: Store) -> float:
    """Return what a stored point takes, with the index."""
    from sqlalchemy import text

    size = text("SELECT pg_total_relation_size('metric_points') / count(*) FROM metric_points")
    return float(store._database.read(lambda db: db.scalar(size)))


def cores(costs: dict[str, Cost], workers: int) -> float:
    """Return how many cores of the server that many workers at work keep busy."""
    return sum(kind.cores(workers, costs[name]) for name, kind in KINDS.items())


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--clients", type=int, default=2, help="processes that make the calls")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before, {given.clients} clients")
    print("ms of the server's CPU for a call (median, 99th percentile of the whole way)\n")
    for workers in given.workers:
        costs, megabytes, point_bytes = simulate(workers, given.clients)
        print(f"{workers} workers: {cores(costs, workers):.2f} cores of the server")
        for name, cost in costs.items():
            part = KINDS[name].cores(workers, cost) if name in KINDS else 0.0
            print(
                f"  {name:22} {cost.server:7.2f} ({cost.median:6.1f} {cost.p99:7.1f}), "
                f"{cost.calls:5} calls" + (f", {part:.3f} cores" if part else "")
            )
        print(f"  {megabytes:.1f} MB a connection, {point_bytes:.0f} bytes a metric point")


if __name__ == "__main__":
    main()
