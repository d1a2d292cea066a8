"""A worker that a scheduler started ends by itself: it holds no node for nothing."""

from __future__ import annotations

import json

from tests.conftest import TINY


def test_a_worker_without_a_run_ends_in_order_after_its_idle_limit(cli):
    cli.write("tiny.yaml", TINY.replace("epochs: 2", "epochs: 1"))
    cli("submit", "tiny.yaml")
    cli("submit", "tiny.yaml", "--seed", "7", "--hold")
    done = cli("worker", "--idle-limit", "1s", "--only-gpus", "1")
    assert "no run to take for 1 s: ending" in done.stderr
    states = [run["state"] for run in json.loads(cli("runs", "ls", "--json").stdout)["runs"]]
    assert sorted(states) == ["queued", "succeeded"]


def test_a_worker_cannot_promise_gpus_that_it_has_not(cli):
    said = cli("worker", "--gpus", "none", "--only-gpus", "2", code=2).stderr
    assert "--only-gpus 2: this worker has 1 slot" in said
