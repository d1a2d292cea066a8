"""Eight processes at one queue: every run is done once, and no write is lost."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from lsqctl.errors import StoreError
from lsqctl.facts import Metric
from lsqctl.run import EndReason, RunState
from lsqctl.store import open_store
from lsqctl.store.database import STRUCTURE_LOCK
from tests.store.samples import identity, new, result, submit, take

PROCESSES, RUNS = 8, 200
ROOT = Path(__file__).parent.parent.parent

WORKER = """
import sys, time
from lsqctl.facts import Metric
from lsqctl.store import open_store
from tests.store.samples import identity, result
url, name = sys.argv[1:]
store = open_store(url, lease_seconds=60)
store.register_worker(identity(name))
print("ready", flush=True)
sys.stdin.read()
while store.unfinished():
    claim = store.claim(name)
    if claim is None:
        time.sleep(0.01)
    else:
        print(claim.run.id, flush=True)
        store.log_metrics(claim.lease, [Metric("top1", "test", 1, 1.0)])
        store.finish(claim.lease, result())
store.close()
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-W", "error", "-c", script, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)


def outputs(processes: list[subprocess.Popen[str]]) -> list[list[str]]:
    """Let the processes begin, once all are ready, and return the words that each printed."""
    try:
        for each in processes:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in processes:
            assert each.stdin is not None
            each.stdin.close()
            each.stdin = None  # so that communicate() does not touch it
        found = [each.communicate(timeout=100)[0].split() for each in processes]
        assert [each.returncode for each in processes] == [0] * len(processes)
        return found
    finally:
        for each in processes:
            each.kill()
            each.wait()


def test_eight_processes_do_every_run_once_parents_before_children(url: str) -> None:
    with open_store(url) as store:
        parents = [new(f"p{i}") for i in range(RUNS // 2)]
        children = [new(f"c{i}", parents=[f"p{i}"]) for i in range(RUNS // 2)]
        pairs = zip(parents, children, strict=True)
        ids = submit(store, *(run for pair in pairs for run in pair))
        workers = [start(WORKER, url, f"worker{i}") for i in range(PROCESSES)]
        assert Counter(run_id for output in outputs(workers) for run_id in output) == Counter(ids)
        assert store.counts()[RunState.SUCCEEDED] == RUNS
        assert sum(run.attempt for run in store.runs()) == RUNS
        assert all(len(store.metrics(run_id)) == 1 for run_id in ids[:20])
        assert store.check() == []


FORK = """
import os, sys
from lsqctl.store import open_store
from tests.store.samples import identity, new, submit, take
print("ready", flush=True)
store = open_store(sys.argv[1])
store.register_worker(identity("w1"))
submit(store, new("a"))
lease = take(store).lease
child = os.fork()
store.note(lease, "child" if child == 0 else "parent")
if child:
    assert os.waitpid(child, 0)[1] == 0
    store.note(lease, "parent again")
store.close()
"""


def test_a_forked_child_has_its_own_connections(url: str) -> None:
    outputs([start(FORK, url)])
    with open_store(url) as store:
        events = store.events(store.resolve("a").id)
        notes = [event.detail for event in events if event.kind == "note"]
    assert sorted(notes) == ["child", "parent", "parent again"]
    assert notes[-1] == "parent again"


def test_submitting_the_same_run_from_four_processes_adds_it_once(url: str) -> None:
    script = (
        "import sys; from lsqctl.store import open_store; from tests.store.samples import new; "
        "s = open_store(sys.argv[1]); print('ready', flush=True); sys.stdin.read(); "
        "print(*(e.outcome for e in s.enqueue([new('a'), new('b', parents=['a'])])))"
    )
    open_store(url).close()
    found = Counter(map(tuple, outputs([start(script, url) for _ in range(4)])))
    assert found == {("queued", "waiting"): 1, ("exists", "exists"): 3}


def test_a_store_survives_the_loss_of_its_postgresql_connections(postgresql_url: str) -> None:
    with open_store(postgresql_url) as store, open_store(postgresql_url) as other:
        store.register_worker(identity("w1"))
        submit(store, new("a"))
        lease = take(store).lease
        kill = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        other._database.read(lambda db: db.exec_driver_sql(kill).all())
        assert not store.renew(lease).cancel_requested


def test_changes_to_several_runs_wait_for_each_other_and_work_goes_on(
    postgresql_url: str,
) -> None:
    with open_store(postgresql_url, busy_seconds=0.05) as store:
        store.register_worker(identity("w1"))
        submit(store, new("a"), new("b"), new("c"))
        a, b = take(store), take(store)
        structural: list[Callable[[], object]] = [
            lambda: submit(store, new("d")),
            lambda: store.finish(a.lease, result()),
            lambda: store.fail(a.lease, EndReason.CODE, ""),
            lambda: store.release(a.lease),
            lambda: store.cancel(a.run.id),
            lambda: store.retry(a.run.id),
        ]
        with store._database.engine.begin() as other:
            other.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": STRUCTURE_LOCK})
            for change in structural:
                with pytest.raises(StoreError, match="lock timeout"):
                    change()
            store.renew(b.lease)
            store.log_metrics(b.lease, [Metric("top1", "test", 1, 1.0)])
            assert take(store).run.name == "c"
        store.finish(a.lease, result())


def test_parents_that_finish_at_once_leave_no_child_waiting(url: str) -> None:
    script = (
        "import sys; from lsqctl.store import open_store; "
        "from tests.store.samples import identity, result\n"
        "s = open_store(sys.argv[1]); s.register_worker(identity(sys.argv[2]))\n"
        "claims = [s.claim(sys.argv[2]) for _ in range(20)]; print('ready', flush=True)\n"
        "sys.stdin.read()\n"
        "[s.finish(c.lease, result()) for c in claims]"
    )
    with open_store(url) as store:
        parents = [new(f"p{i}") for i in range(40)]
        submit(store, *parents, *(new(f"c{i}", parents=[f"p{i}", f"p{i + 20}"]) for i in range(20)))
        outputs([start(script, url, name) for name in ("x", "y")])
        assert store.counts()[RunState.QUEUED] == 20
