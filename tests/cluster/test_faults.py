"""Faults of docs/cluster.md on a real Slurm: each ends with an undisturbed run's weights."""

from __future__ import annotations

import json
import shutil
import signal
import time

import pytest

from lsqctl.run import RunState
from tests.cluster.conftest import PROFILE, ClusterLine
from tests.cluster.private_slurm import PrivateSlurm
from tests.conftest import TINY, CommandLine, wait_for
from tests.worker.long_run import at_work, final_hashes, submitted

pytestmark = pytest.mark.slow
# long enough for a fault to find it at work, and for the next pilot to have something to do
LONG = TINY.replace("epochs: 2", "epochs: 14").replace("batch_size: 256", "batch_size: 64")
WORK = ("cluster", "work", "cpu", "--until-empty", "--poll", "1s")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """The hash of LONG's weights, trained in one go on this machine."""
    line = CommandLine(tmp_path_factory.mktemp("whole"))
    run_id = submitted(line, LONG)
    line("worker", "--until-empty", "--slots", "2")
    return final_hashes(line, run_id)["model.pt"]


@pytest.fixture
def run_id(on_slurm: ClusterLine) -> str:
    return submitted(on_slurm, LONG)


@pytest.fixture
def working(on_slurm: ClusterLine, run_id: str):
    """A dispatcher whose pilot trains the run."""
    dispatcher = on_slurm.start(*WORK)
    wait_until_at_work(on_slurm, run_id)
    return dispatcher


def wait_until_at_work(line: ClusterLine, run_id: str, step: int = 60) -> None:
    with line.store() as store:
        wait_for(lambda: at_work(store, run_id, step), 150)


def pilot_of(line: ClusterLine, run_id: str) -> tuple[str, str]:
    """Return job id and node of the pilot that owns the run."""
    with line.store() as store:
        owner = store.runs.detail(run_id).run.worker
        (worker,) = [one.identity for one in store.workers.list() if one.identity.id == owner]
    return worker.name.partition("-")[2].partition(".")[0], worker.host


def assert_same_end(line: ClusterLine, run_id: str, weights: str, dispatcher=None) -> None:
    """Wait for the dispatcher and compare what the run came to."""
    if dispatcher is not None:
        said, _ = dispatcher.communicate(timeout=280)
        assert dispatcher.returncode == 0, said
        print(said)
    with line.store() as store:
        run = store.runs.detail(run_id).run
        assert run.state is RunState.SUCCEEDED, (run.message, line.logs())
        assert store.maintenance.check() == []
        assert len(store.results.board_rows()) == 1
    assert final_hashes(line, run_id)["model.pt"] == weights


def attempts(line: ClusterLine, run_id: str) -> list[str]:
    with line.store() as store:
        return [str(one.reason) for one in store.runs.detail(run_id).attempts]


def all_jobs(slurm: PrivateSlurm) -> list[str]:
    shown = slurm.call("squeue", "-h", "--states=all", "-o", "%j")
    return [name for name in shown.splitlines() if name.startswith("lsqctl-")]


def jobs_of(slurm: PrivateSlurm, line: ClusterLine) -> list[str]:
    """Return every job of this workspace, ended ones too."""
    token = (line.home / "cluster" / "token").read_text()
    return [name for name in all_jobs(slurm) if f"-{token}-" in name]


def test_a_node_that_loses_power_costs_a_lease_and_no_bit(
    on_slurm, slurm, run_id, working, weights
):
    _, node = pilot_of(on_slurm, run_id)
    slurm.cut_power(node)
    assert_same_end(on_slurm, run_id, weights, working)
    assert attempts(on_slurm, run_id) == ["worker_lost", "completed"]


def test_a_pilot_that_a_person_cancels_saves_and_another_goes_on(
    on_slurm, slurm, run_id, working, weights
):
    slurm.call("scancel", pilot_of(on_slurm, run_id)[0])
    assert_same_end(on_slurm, run_id, weights, working)
    assert attempts(on_slurm, run_id) == ["preempted", "completed"]


def unhurried(line: ClusterLine, *keys: str) -> None:
    """Let the run pause twice, for Slurm looks at its clock but twice a minute."""
    pauses = "export LSQCTL_FAILPOINT=train.step:sleep:20:100,evaluate.batch:sleep:20:60"
    (line.folder / "once").mkdir()
    setup = [pauses, f"export LSQCTL_FAILPOINT_ONCE={line.folder / 'once'}"]
    line.profile("\n".join([PROFILE, *keys, f"setup = {json.dumps(setup)}"]))


def test_a_pilot_that_slurm_preempts_saves_and_another_goes_on(on_slurm, slurm, run_id, weights):
    """Slurm ends it when it looks at its clock after GraceTime; KillWait bounds the saving."""
    unhurried(on_slurm)
    dispatcher = on_slurm.start(*WORK)
    wait_until_at_work(on_slurm, run_id)
    job_id, node = pilot_of(on_slurm, run_id)
    words = ("--partition=urgent", f"--nodelist={node}", "--cpus-per-task=2", "--output=/dev/null")
    slurm.call("sbatch", *words, text="#!/bin/sh\nsleep 2\n")
    assert_same_end(on_slurm, run_id, weights, dispatcher)
    assert "PREEMPTED" in slurm.call("scontrol", "show", "job", job_id)
    assert attempts(on_slurm, run_id) == ["preempted", "completed"]


def test_a_pilot_near_its_time_limit_saves_ends_with_0_and_another_goes_on(
    on_slurm, slurm, run_id, weights
):
    unhurried(on_slurm, "minutes = 1")
    path = on_slurm.home / "cluster.toml"
    path.write_text(path.read_text().replace('lead = "20s"', 'lead = "45s"'))
    assert_same_end(on_slurm, run_id, weights, on_slurm.start(*WORK))
    ended = attempts(on_slurm, run_id)
    assert ended[-1] == "completed"
    assert set(ended[:-1]) == {"preempted"}
    states = slurm.call("squeue", "-h", "--me", "--states=all", "-o", "%T").split()
    assert "FAILED" not in states[-len(ended) :]


def test_a_pilot_is_not_requeued_unless_forced_and_then_works_on(
    on_slurm, slurm, run_id, working, weights
):
    job_id, _ = pilot_of(on_slurm, run_id)
    assert slurm.call("scontrol", "requeue", job_id) != ""
    assert "Requeue=0" in slurm.call("scontrol", "show", "job", job_id)
    slurm.call("scontrol", "update", f"JobId={job_id}", "Requeue=1")
    slurm.call("scontrol", "requeue", job_id)
    slurm.call("scontrol", "update", f"JobId={job_id}", "StartTime=now")
    assert_same_end(on_slurm, run_id, weights, working)
    assert attempts(on_slurm, run_id)[0] == "preempted"


@pytest.mark.parametrize("moment", ["cluster.before-submit", "cluster.after-submit"])
def test_a_dispatcher_killed_around_sbatch_leaves_at_most_one_pilot(
    on_slurm, slurm, run_id, weights, moment
):
    on_slurm(*WORK, code=-signal.SIGKILL, LSQCTL_FAILPOINT=f"{moment}:kill")
    assert len(jobs_of(slurm, on_slurm)) == (moment == "cluster.after-submit")
    assert_same_end(on_slurm, run_id, weights, on_slurm.start(*WORK))
    assert len(jobs_of(slurm, on_slurm)) == 1
    assert attempts(on_slurm, run_id) == ["completed"]


def test_a_dispatcher_that_is_killed_leaves_its_pilot_at_work(
    on_slurm, slurm, run_id, working, weights
):
    working.kill()
    assert_same_end(on_slurm, run_id, weights, on_slurm.start(*WORK))
    assert len(jobs_of(slurm, on_slurm)) == 1


def test_two_dispatchers_at_once_send_a_pilot_too_many_at_the_worst(
    on_slurm, slurm, run_id, weights
):
    both = [on_slurm.start(*WORK) for _ in range(2)]
    for dispatcher in both:
        assert_same_end(on_slurm, run_id, weights, dispatcher)
    assert attempts(on_slurm, run_id) == ["completed"]
    assert len(jobs_of(slurm, on_slurm)) <= 2


def test_a_controller_that_does_not_answer_stops_no_run_and_proves_nothing(
    on_slurm, slurm, run_id, working, weights
):
    controller = slurm.processes["controller"]
    controller.send_signal(signal.SIGSTOP)
    with on_slurm.store() as store:
        wait_for(lambda: store.runs.detail(run_id).run.state is RunState.SUCCEEDED, 120)
    time.sleep(1)
    controller.send_signal(signal.SIGCONT)
    assert_same_end(on_slurm, run_id, weights, working)
    assert attempts(on_slurm, run_id) == ["completed"]
    assert len(jobs_of(slurm, on_slurm)) == 1


def test_a_controller_that_comes_back_with_an_older_state_costs_no_bit(
    on_slurm, slurm, run_id, weights
):
    older = slurm.folder / "older"
    shutil.rmtree(older, ignore_errors=True)
    dispatcher = on_slurm.start(*WORK)
    wait_for(lambda: jobs_of_or_none(slurm, on_slurm), 60)
    shutil.copytree(slurm.folder / "state", older)
    wait_until_at_work(on_slurm, run_id)
    slurm.kill_controller()
    shutil.rmtree(slurm.folder / "state")
    shutil.copytree(older, slurm.folder / "state")
    slurm.start_controller()
    assert_same_end(on_slurm, run_id, weights, dispatcher)


def jobs_of_or_none(slurm: PrivateSlurm, line: ClusterLine) -> list[str]:
    there = (line.home / "cluster" / "token").exists()
    return jobs_of(slurm, line) if there else []


def test_a_restarted_slurmd_is_not_noticed(on_slurm, slurm, run_id, working, weights):
    slurm.kill_daemon(pilot_of(on_slurm, run_id)[1])
    assert_same_end(on_slurm, run_id, weights, working)
    assert attempts(on_slurm, run_id) == ["completed"]


def test_a_full_partition_is_waited_for_and_its_reason_is_shown(on_slurm, slurm, run_id, weights):
    for _ in slurm.names:
        slurm.call(
            *("sbatch", "--cpus-per-task=2", "--output=/dev/null"), text="#!/bin/sh\nsleep 25\n"
        )
    dispatcher = on_slurm.start(*WORK)
    wait_for(lambda: pilots_shown(on_slurm), 60)
    wait_for(lambda: pilots_shown(on_slurm)[0]["reason"] in ("Resources", "Priority"), 20)
    assert pilots_shown(on_slurm)[0]["state"] == "PENDING"
    assert_same_end(on_slurm, run_id, weights, dispatcher)


def pilots_shown(line: ClusterLine) -> list[dict[str, str]]:
    return json.loads(line("watch", "--json").stdout)["pilots"]


def test_a_node_without_the_shared_folder_is_avoided(on_slurm, slurm, run_id, weights):
    slurm.cut_power("n1")
    slurm.call("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=test")
    slurm.start_node("n1", hide=on_slurm.home)
    wait_for(lambda: "idle" in slurm.call("sinfo", "-h", "-n", "n1", "-o", "%T"), 60)
    dispatcher = on_slurm.start(*WORK)
    wait_for(lambda: jobs_of_or_none(slurm, on_slurm), 60)
    wait_for(lambda: "--exclude=n1" in last_script(slurm, on_slurm), 60)
    slurm.call("scontrol", "update", "NodeName=n2", "State=RESUME")
    said, _ = dispatcher.communicate(timeout=240)
    assert "without having become a worker on n1, which is avoided" in said
    assert_same_end(on_slurm, run_id, weights)
    slurm.cut_power("n1")


def last_script(slurm: PrivateSlurm, line: ClusterLine) -> str:
    shown = slurm.call("squeue", "-h", "--me", "-o", "%i %x")
    return " ".join(f"--exclude={row.split()[1]}" for row in shown.splitlines() if row.split()[1:])
