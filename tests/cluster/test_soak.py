"""bench/cluster_soak.py in a small form, and that it tells a failed run from a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cluster_soak import Line, main, violations
from lsqctl.errors import LeaseLost
from lsqctl.run import EndReason, RunState
from tests.cluster.private_slurm import missing
from tests.store.samples import identity, lapse, new, no_back_off, result, submit, take


def test_a_run_lost_three_times_has_failed_without_a_result_and_the_soak_says_so(tmp_path):
    """It stands on the board all the same, as a row without counts: that is no result."""
    line = Line(tmp_path, f"sqlite:///{tmp_path / '.lsqctl' / 'lsqctl.db'}", None)
    with line.store() as store:
        store.workers.register(identity("w1"))
        (run_id,) = submit(store, new("a"))
        for _ in range(3):
            lease = take(store).lease
            lapse(store, run_id)
            assert store.queue.reap(is_dead=lambda _: True)
            with pytest.raises(LeaseLost):
                store.queue.finish(lease, result())
            no_back_off(store)
        run = store.runs.detail(run_id).run
        assert (run.state, run.reason) == (RunState.FAILED, EndReason.WORKER_LOST)
        assert [row.n_correct for row in store.results.board_rows()] == [None]
        assert store.results.evaluations(run_id) == []
        assert store.maintenance.check() == []
    (wrong,) = violations(line, {0: None})
    assert wrong.startswith(f"{run_id} is failed (")
    assert wrong.endswith("), with 0 results")


@pytest.mark.slow
def test_a_disturbed_cluster_ends_as_an_undisturbed_one(tmp_path: Path):
    if lacking := missing():
        pytest.skip(f"NOT TESTED UNDER SLURM: {lacking}")
    report = tmp_path / "report.md"
    words = ["--runs", "3", "--faults", "4", "--pause", "6", "--report", str(report)]
    assert main(["--seed", "3", *words]) == 0, report.read_text()
    assert "- faults: 4 (" in report.read_text()
