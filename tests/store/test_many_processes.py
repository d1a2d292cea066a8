"""Sixteen processes at one queue: every run is done once, and no write is lost."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, text

from lsqctl.errors import StoreError
from lsqctl.events import Metric
from lsqctl.run import EndReason, RunState
from lsqctl.store import open_store
from lsqctl.store.database import EXCLUSIVE_LOCK_KEY
from lsqctl.store.tables import runs
from tests.conftest import WARM
from tests.store.samples import identity, new, result, submit, take
from tests.warm import WarmProcess

PROCESSES = 16
ROOT = Path(__file__).parent.parent.parent

WORKER = """
import sys, time
from lsqctl.events import Metric
from lsqctl.store import open_store
from tests.store.samples import identity, result
url, name = sys.argv[1:]
store = open_store(url, lease_seconds=60)
store.workers.register(identity(name))
print("ready", flush=True)
sys.stdin.read()
while (claim := store.queue.claim(name)) or any(store.queue.remaining()):
    if claim is None:
        time.sleep(0.05)
    else:
        print(claim.run.id, flush=True)
        store.metrics.log(claim.lease, [Metric("top1", "test", 1, 1.0)])
        store.queue.finish(claim.lease, result())
store.close()
"""


def start(script: str, *arguments: str) -> WarmProcess:
    strict = "import warnings; warnings.simplefilter('error')\n"
    return WARM.start(arguments, ROOT, os.environ, script=strict + script)


def outputs(processes: list[WarmProcess], *, timeout: float = 200) -> list[list[str]]:
    """Let the processes begin, once all are ready, and return the words that each printed."""
    try:
        for each in processes:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in processes:
            assert each.stdin is not None
            each.stdin.close()
        told = [each.communicate(timeout=timeout) for each in processes]
        assert [error for _, error in told if error] == []
        assert [each.returncode for each in processes] == [0] * len(processes)
        return [(out or "").split() for out, _ in told]
    finally:
        for each in processes:
            each.kill()
            each.wait()


@pytest.mark.parametrize(
    "count", [64, pytest.param(5000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_sixteen_processes_do_every_run_once_parents_before_children(url: str, count: int) -> None:
    with open_store(url) as store:
        parents = [new(f"p{i}") for i in range(count // 2)]
        children = [new(f"c{i}", parents=[f"p{i}"]) for i in range(count // 2)]
        pairs = zip(parents, children, strict=True)
        ids = submit(store, *(run for pair in pairs for run in pair))
        workers = [start(WORKER, url, f"worker{i}") for i in range(PROCESSES)]
        done = [run_id for output in outputs(workers, timeout=3000) for run_id in output]
        assert Counter(done) == Counter(ids)
        assert store.runs.counts()[RunState.SUCCEEDED] == count
        assert sum(run.attempt for run in store.runs.list()) == count
        assert all(len(store.metrics.points(run_id)) == 1 for run_id in ids[:20])
        assert store.maintenance.check() == []


WRITER = """
import sys
from lsqctl.events import Metric
from lsqctl.store import open_store
from tests.store.samples import checkpoint, identity, result
url, name = sys.argv[1:]
store = open_store(url, lease_seconds=60)
store.workers.register(identity(name))
print("ready", flush=True)
sys.stdin.read()
claim = store.queue.claim(name)
for step in range(1, 21):
    batch = [Metric(metric, "train", step, float(step)) for metric in ("a", "b", "c")]
    if step % 5:
        store.metrics.log(claim.lease, batch)
    else:
        store.checkpoints.record(claim.lease, checkpoint(step), batch)
store.queue.finish(claim.lease, result())
store.close()
"""


def test_reads_are_whole_and_never_go_back_while_sixteen_processes_write(url: str) -> None:
    """Every read is one snapshot: batches are seen whole or not at all, and only grow."""
    with open_store(url) as store:
        ids = submit(store, *(new(f"r{i}") for i in range(PROCESSES + 4)))
        workers = [start(WRITER, url, f"worker{i}") for i in range(PROCESSES)]
        seen: dict[str, int] = dict.fromkeys(ids, 0)
        succeeded = reads = between = 0

        def look() -> None:
            nonlocal succeeded, reads, between
            counts = store.runs.counts()
            assert sum(counts.values()) == len(ids)
            assert counts[RunState.SUCCEEDED] >= succeeded
            succeeded = counts[RunState.SUCCEEDED]
            between += counts[RunState.RUNNING] > 0
            run_id = ids[reads % PROCESSES]
            points = Counter(metric.name for metric in store.metrics.points(run_id))
            assert len(set(points.values())) <= 1, "half of a batch was seen"
            latest = max(points.values(), default=0)
            assert latest >= seen[run_id]
            seen[run_id] = latest
            assert all(one.last_step >= latest for one in store.metrics.summaries(run_id))
            reads += 1

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(outputs, workers)
            while not waiting.done():
                look()
            waiting.result()
        look()
        assert between > 3, "the reads came before or after the writing"
        assert store.runs.counts()[RunState.SUCCEEDED] == PROCESSES
        assert store.runs.counts()[RunState.QUEUED] == 4
        assert all(
            len(store.metrics.points(run.id)) == 60
            for run in store.runs.list(states=[RunState.SUCCEEDED])
        )
        assert store.maintenance.check() == []


def test_runs_that_others_hold_are_passed_over_and_come_at_the_next_poll(
    postgresql_url: str,
) -> None:
    """SKIP LOCKED: a claim beside another one takes what is left; nothing stays unclaimed."""
    with open_store(postgresql_url) as store:
        store.workers.register(identity("w1"))
        first, second, big = submit(store, new("a"), new("b"), new("big", gpus=2))
        lock = select(runs.c.id).with_for_update(key_share=True)
        with store._database.engine.begin() as other:
            other.execute(lock.where(runs.c.id == first)).all()
            assert take(store).run.id == second
        with store._database.engine.begin() as other:
            other.execute(lock.where(runs.c.state == RunState.QUEUED)).all()
            assert store.queue.claim("w1", gpus=2, free_gpus=2) is None
        assert take(store).run.id == first
        assert store.queue.claim("w1", gpus=2, free_gpus=1) is None, "it waits for room"
        claim = store.queue.claim("w1", gpus=2, free_gpus=2)
        assert claim is not None
        assert claim.run.id == big


GREEDY = """
import sys
from lsqctl.store import open_store
from tests.store.samples import identity
store = open_store(sys.argv[1])
store.workers.register(identity(sys.argv[2]))
print("ready", flush=True)
sys.stdin.read()
while True:
    claim = store.queue.claim(sys.argv[2], gpus=2, free_gpus=2)
    if claim:
        print(claim.run.id, flush=True)
    elif not store.queue._anything_to_claim({"most_gpus": 2, "least_gpus": 1}):
        break
store.close()
"""


def test_claims_at_once_of_runs_with_reserved_gpus_leave_none_behind(url: str) -> None:
    with open_store(url) as store:
        ids = submit(store, *(new(f"r{i}", gpus=1 + i % 3) for i in range(90)))
        found = outputs([start(GREEDY, url, f"worker{i}") for i in range(6)])
        fitting = [run_id for place, run_id in enumerate(ids) if place % 3 < 2]
        assert Counter(run_id for output in found for run_id in output) == Counter(fitting)


FORK = """
import os, sys
from lsqctl.store import open_store
from tests.store.samples import identity, new, submit, take
print("ready", flush=True)
store = open_store(sys.argv[1])
store.workers.register(identity("w1"))
submit(store, new("a"))
lease = take(store).lease
child = os.fork()
store.queue.log_event(lease, "child" if child == 0 else "parent")
if child:
    assert os.waitpid(child, 0)[1] == 0
    store.queue.log_event(lease, "parent again")
store.close()
"""


def test_a_forked_child_has_its_own_connections(url: str) -> None:
    outputs([start(FORK, url)])
    with open_store(url) as store:
        events = store.runs.events(store.runs.resolve("a").id)
        notes = [event.detail for event in events if event.kind == "note"]
    assert sorted(notes) == ["child", "parent", "parent again"]
    assert notes[-1] == "parent again"


def test_submitting_the_same_run_from_four_processes_adds_it_once(url: str) -> None:
    script = (
        "import sys; from lsqctl.store import open_store; from tests.store.samples import new; "
        "s = open_store(sys.argv[1]); print('ready', flush=True); sys.stdin.read(); "
        "print(*(e.outcome for e in s.queue.enqueue([new('a'), new('b', parents=['a'])])))"
    )
    open_store(url).close()
    found = Counter(map(tuple, outputs([start(script, url) for _ in range(4)])))
    assert found == {("queued", "waiting"): 1, ("exists", "exists"): 3}


def test_a_store_survives_the_loss_of_its_postgresql_connections(postgresql_url: str) -> None:
    with open_store(postgresql_url) as store, open_store(postgresql_url) as other:
        store.workers.register(identity("w1"))
        submit(store, new("a"))
        lease = take(store).lease
        kill = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        other._database.read(lambda db: db.exec_driver_sql(kill).all())
        assert not store.queue.renew(lease).cancel_requested


def test_changes_to_several_runs_wait_for_each_other_and_work_goes_on(
    postgresql_url: str,
) -> None:
    with open_store(postgresql_url, busy_seconds=0.05) as store:
        store.workers.register(identity("w1"))
        submit(store, new("a"), new("b"), new("c"))
        a, b = take(store), take(store)
        structural: list[Callable[[], object]] = [
            lambda: submit(store, new("d")),
            lambda: store.queue.finish(a.lease, result()),
            lambda: store.queue.fail(a.lease, EndReason.CODE, ""),
            lambda: store.queue.release(a.lease),
            lambda: store.runs.cancel(a.run.id),
            lambda: store.runs.retry(a.run.id),
        ]
        with store._database.engine.begin() as other:
            other.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": EXCLUSIVE_LOCK_KEY})
            for change in structural:
                with pytest.raises(StoreError, match="lock timeout"):
                    change()
            store.queue.renew(b.lease)
            store.metrics.log(b.lease, [Metric("top1", "test", 1, 1.0)])
            assert take(store).run.name == "c"
        store.queue.finish(a.lease, result())


def test_parents_that_finish_at_once_leave_no_child_waiting(url: str) -> None:
    script = (
        "import sys; from lsqctl.store import open_store; "
        "from tests.store.samples import identity, result\n"
        "s = open_store(sys.argv[1]); s.workers.register(identity(sys.argv[2]))\n"
        "claims = [s.queue.claim(sys.argv[2]) for _ in range(20)]; print('ready', flush=True)\n"
        "sys.stdin.read()\n"
        "[s.queue.finish(c.lease, result()) for c in claims]"
    )
    with open_store(url) as store:
        parents = [new(f"p{i}") for i in range(40)]
        submit(store, *parents, *(new(f"c{i}", parents=[f"p{i}", f"p{i + 20}"]) for i in range(20)))
        outputs([start(script, url, name) for name in ("x", "y")])
        assert store.runs.counts()[RunState.QUEUED] == 20
