"""Successive halving with real workers: the same cells fall out, undisturbed or killed."""

from __future__ import annotations

import json
import struct

import pytest

from lsqctl.run import EndReason, RunState
from tests.conftest import FULL, TINY, CommandLine
from tests.worker.long_run import reproducible, store_of
from tests.worker.test_tracking import scalars

SEARCH = (
    TINY.replace("{epochs: 2, lr: 0.1}", "{epochs: 3, lr: 0.1}")
    + "sweep:\n  random: {train.lr: loguniform(1e-4, 1e-1)}\n  runs: 3\n  halving: {factor: 3}\n"
)


def ends(cli: CommandLine) -> dict[str, object]:
    """How each cell ended, in words, and all that it measured."""
    with store_of(cli) as store:
        assert store.maintenance.check() == []
        return {
            run.name: (run.state, run.reason, run.message, run.epoch, reproducible(store, run.id))
            for run in store.runs.list()
        }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    cli = CommandLine(tmp_path_factory.mktemp("whole"))
    cli.write("s.yaml", SEARCH)
    cli("submit", "s.yaml")
    cli("worker", "--until-empty", "--slots", "2", "--tensorboard")
    return cli


def test_a_sweep_is_halved_and_says_which_cells_stopped_at_which_rung(undisturbed):
    counts = json.loads(undisturbed("sweep", "status", "--json").stdout)["counts"]
    assert counts == {"succeeded": 1, "stopped": 2}
    found = {message[:22]: epoch for _, _, message, epoch, _ in ends(undisturbed).values()}
    assert found == {"": 3, "stopped at rung 1 of 1": 1}
    status = undisturbed("sweep", "status")
    assert "2 stopped" in status.stdout + status.stderr
    assert undisturbed("runs", "ls").stdout.count("stopped at rung 1 of 1") == 2
    waited = undisturbed("wait", "--sweep", "s")
    assert "1 succeeded, 2 stopped at a rung" in waited.stdout + waited.stderr
    assert "rung" in undisturbed("explain", "stopped").stdout


def test_each_attempt_writes_event_files_that_together_are_the_metrics(undisturbed):
    with store_of(undisturbed) as store:
        (winner,) = store.runs.list(states=[RunState.SUCCEEDED])
        points = store.metrics.points(winner.id)
    assert winner.attempt == 2
    found = scalars(undisturbed.folder / ".lsqctl" / "runs" / winner.id / "tensorboard")
    wanted: dict[str, list[tuple[int, float]]] = {}
    for point in points:
        single = struct.unpack("<f", struct.pack("<f", point.value))[0]
        wanted.setdefault(f"{point.split}/{point.name}", []).append((point.step, single))
    assert {tag: found[tag] for tag in wanted} == wanted


@pytest.mark.slow
@pytest.mark.skipif(not FULL, reason="make test-full kills workers at their rungs")
def test_killed_workers_and_two_at_a_time_change_neither_who_falls_out_nor_a_number(
    cli, undisturbed
):
    cli.write("s.yaml", SEARCH)
    cli("submit", "s.yaml")
    once = cli.folder / "once"
    once.mkdir()
    faults = "rung.before-pause:kill:2,rung.before-commit:raise,train.step:kill:3"
    armed = {"LSQCTL_FAILPOINT": faults, "LSQCTL_FAILPOINT_ONCE": str(once)}
    cli("worker", "--until-empty", "--slots", "2", code=-9, **armed)
    other = cli.start("worker", "--until-empty", "--slots", "2", **armed)
    cli("worker", "--until-empty", "--slots", "2", **armed)
    assert other.wait(120) == 0
    fired = {path.name for path in once.iterdir()}
    assert fired == {"rung.before-pause", "rung.before-commit", "train.step"}
    assert ends(cli) == ends(undisturbed)
    with store_of(cli) as store:
        reasons = {
            a.reason for run in store.runs.list() for a in store.runs.detail(run.id).attempts
        }
    assert EndReason.WORKER_LOST in reasons
