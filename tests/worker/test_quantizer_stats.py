"""What training saw of its quantizers reaches the store, whatever happens to the attempt."""

from __future__ import annotations

from typing import Any

import pytest

from lsqctl.events import Checkpoint, Metric, QuantizerStats, Resumed
from lsqctl.store import open_store
from lsqctl.worker.recorder import Recorder, ingest_spool
from tests.store.samples import identity, new, submit, take


def stats(step: int, name: str = "a", **changes: Any) -> QuantizerStats:
    numbers = dict.fromkeys(("step_size", "step_size_min", "step_size_max"), 0.1 * step)
    counts = {"codes_used": 15, "n_codes": 16, "n_values": 99, "bits": 4, "epoch": step}
    return QuantizerStats(
        name=name, kind="weight", step=step, signed=True, clip_fraction=0.1, **numbers, **counts
    )


@pytest.fixture
def store(tmp_path):
    with open_store(f"sqlite:///{tmp_path}/home/lsqctl.db", lease_seconds=2) as opened:
        opened.workers.register(identity("w1"))
        submit(opened, new("a"))
        yield opened


def test_they_wait_with_the_metrics_and_go_in_with_the_checkpoint(store, tmp_path):
    lease, seen = take(store).lease, [stats(1), stats(1, "b"), stats(2)]
    with Recorder(store, lease, run_dir=tmp_path / "run", clock=lambda: 0.0) as recorder:
        for one in seen[:2]:
            recorder.record(one)
        assert store.metrics.quantizer_stats(lease.run_id) == []
        recorder.record(Checkpoint(1, 1, tmp_path / "run", "sha", 10))
        assert store.metrics.quantizer_stats(lease.run_id) == seen[:2]
        recorder.record(seen[2])
    assert store.metrics.quantizer_stats(lease.run_id) == seen


def test_what_a_killed_attempt_spooled_is_taken_in_up_to_where_the_next_goes_on(store, tmp_path):
    first, seen = take(store).lease, [stats(1), stats(2), stats(3)]
    killed = Recorder(store, first, run_dir=tmp_path, clock=lambda: 0.0)
    for one in (*seen, Metric("loss", "train", 2, 0.5)):
        killed.record(one)
    with (tmp_path / "spool-1.jsonl").open("a") as file:
        file.write('{"name": "a", "ste')  # killed while it wrote
    store.queue.release(first)
    second = take(store).lease
    with Recorder(store, second, run_dir=tmp_path) as recorder:
        recorder.record(Resumed(2))
    assert store.metrics.quantizer_stats(first.run_id) == seen[:2]
    assert [one.step for one in store.metrics.points(first.run_id)] == [2]


def test_the_supervisor_takes_in_what_the_trainer_left(store, tmp_path):
    lease = take(store).lease
    killed = Recorder(store, lease, run_dir=tmp_path, clock=lambda: 0.0)
    killed.record(stats(1))
    ingest_spool(store, lease, tmp_path)
    assert store.metrics.quantizer_stats(lease.run_id) == [stats(1)]
    assert list(tmp_path.glob("spool*")) == []
