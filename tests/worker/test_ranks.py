"""A run on two processes: what goes wrong in one is named, nothing is left, and no bit is lost."""

from __future__ import annotations

import json
import os
import signal
import socket

import psutil
import pytest

from lsqctl.errors import RankFailed
from lsqctl.run import EndReason, RunState
from lsqctl.worker.messages import AttemptSpec, ExitReport
from lsqctl.worker.ranks import Pulse, Siblings, _Sibling
from tests.conftest import CommandLine, wait_for
from tests.worker.injected import inject
from tests.worker.long_run import final_hashes, lives, reproducible, store_of, trainers
from tests.worker.rank_faults import FAULTS, SHARED

SAID = {
    "killed": "rank 1 of 2 (process {pid}): killed by SIGKILL: by hand, or the machine ran out of",
    "stopped": "rank 1 of 2 (process {pid}) has shown no sign of life for 5 s: it was stopped",
    "stopped0": "rank 0 of 2 (process {pid}) has shown no sign of life for 5 s: it was stopped",
    "raising": "rank 1 of 2 (process {pid}): the disk of this rank is gone",
    "flipped": "rank 1 of 2 computes other bits than rank 0, seen at step 30: a fault of memory",
    "oom": "rank 1 of 2 (process {pid}): CUDA out of memory. Tried to allocate 2.00 GiB.",
}


def submitted(cli: CommandLine, name: str, ranks: int = 2) -> str:
    cli.write(f"{name}.yaml", SHARED)
    options = ("--if-exists", "rerun", "-q", "--gpus", str(ranks))
    return cli("submit", f"{name}.yaml", *options).stdout.strip()


def end_of(cli: CommandLine, run_id: str) -> tuple[object, ...]:
    with store_of(cli) as store:
        assert store.runs.detail(run_id).run.state is RunState.SUCCEEDED
        hashes = final_hashes(cli, run_id)
        return hashes["model.pt"], hashes["training.pt"], reproducible(store, run_id)


def reasons(cli: CommandLine, run_id: str) -> list[tuple[EndReason | None, str]]:
    with store_of(cli) as store:
        return [(one.reason, one.message) for one in store.runs.detail(run_id).attempts]


def nothing_is_left(cli: CommandLine) -> bool:
    """Whether no process of this folder lives, and no file by which ranks meet."""
    inside = [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(cli.folder)]
    return not any(map(lives, inside)) and not list(cli.folder.glob(".lsqctl/runs/*/ranks-*"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What the run comes to on one process."""
    cli = CommandLine(tmp_path_factory.mktemp("alone"))
    run_id = submitted(cli, "alone", ranks=1)
    cli("worker", "--until-empty", "--slots", "2")
    return end_of(cli, run_id)


def after_a_fault(cli: CommandLine, name: str) -> tuple[str, str]:
    """Return the run in which a fault happened once, and the process that it happened in."""
    inject(cli, training_finetuning=FAULTS.format(folder=str(cli.folder)))
    run_id = submitted(cli, name)
    cli("worker", "--until-empty", "--slots", "2", code=None)
    assert nothing_is_left(cli)
    return run_id, (cli.folder / f"{name}.did").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "killed",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("raising", "flipped")),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("stopped", "stopped0")),
    ],
)
def test_a_fault_of_one_rank_is_named_and_the_next_attempt_comes_to_the_same_end(cli, alone, name):
    run_id, pid = after_a_fault(cli, name)
    (reason, message), (last, _) = reasons(cli, run_id)
    assert (reason, last) == (EndReason.INFRA, EndReason.COMPLETED)
    assert message.startswith(SAID[name].format(pid=pid))
    assert end_of(cli, run_id) == alone


def test_what_a_rank_said_is_the_reason_before_its_process_has_ended(tmp_path):
    """To leave Python takes seconds where the machine is busy."""
    spec = AttemptSpec("r", 1, "f", "", 1.0, str(tmp_path), "", "cpu", 1, os.getpid(), ranks=2)
    pid = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
    ours, others = socket.socketpair()
    with ours, others, open(os.devnull, "w") as nobody:
        siblings = Siblings(spec, [_Sibling(1, pid, ours)], Pulse(2))
        others.sendall(ExitReport(EndReason.DATA, "no image").to_line().encode())
        siblings.watch(nobody.fileno())
        try:
            found = siblings.explain(RankFailed("a rank does not answer", is_lost=True))
        finally:
            siblings.close(in_order=False)
    assert found == ExitReport(EndReason.DATA, f"rank 1 of 2 (process {pid}): no image")


@pytest.mark.slow
def test_out_of_memory_in_one_rank_is_not_tried_again_and_says_in_which(cli):
    run_id, pid = after_a_fault(cli, "oom")
    ((reason, message),) = reasons(cli, run_id)
    assert reason is EndReason.OOM
    assert message.startswith(SAID["oom"].format(pid=pid))
    assert message.endswith("raise train.accumulate, or make data.batch_size smaller")


@pytest.mark.slow
def test_a_signal_to_one_rank_alone_stops_all_at_one_step_saved(cli, alone):
    run_id, _ = after_a_fault(cli, "term")
    found = reasons(cli, run_id)
    assert [reason for reason, _ in found] == [EndReason.PREEMPTED, EndReason.COMPLETED]
    assert end_of(cli, run_id) == alone


@pytest.mark.slow
def test_no_rank_outlives_the_supervisor_and_the_run_goes_on_on_another_number_of_them(cli, alone):
    run_id = submitted(cli, "mine")
    worker = cli.start("worker", "--until-empty", "--slots", "2")
    with store_of(cli) as store:
        wait_for(lambda: store.runs.detail(run_id).run.step >= 12)
        (first,) = trainers(worker.pid)
        ranks = [first, *first.children()]
        assert len(ranks) == 2
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(lambda: not any(map(lives, ranks)), 10)
    cli("runs", "gpus", run_id, "1")
    cli("worker", "--until-empty", "--slots", "2")
    assert end_of(cli, run_id) == alone


@pytest.mark.slow
def test_all_ranks_end_when_the_lease_is_lost(cli):
    run_id = submitted(cli, "mine")
    worker = cli.start("worker", "--until-empty", "--slots", "2")
    with store_of(cli) as store:
        wait_for(lambda: store.runs.detail(run_id).run.step >= 12)
        (first,) = trainers(worker.pid)
        ranks = [first, *first.children()]
        os.kill(worker.pid, signal.SIGSTOP)
        for process in ranks:
            os.kill(process.pid, signal.SIGSTOP)
        other = cli.start("worker", "--until-empty", "--slots", "2")
        wait_for(lambda: store.runs.detail(run_id).run.attempt == 2)
        os.kill(worker.pid, signal.SIGCONT)
        for process in ranks:
            os.kill(process.pid, signal.SIGCONT)
        wait_for(lambda: not any(map(lives, ranks)), 20)
        other.wait(120)
        assert store.runs.detail(run_id).run.state is RunState.SUCCEEDED
        assert store.runs.detail(run_id).attempts[0].reason is EndReason.WORKER_LOST


def test_an_unfinished_run_is_given_another_number_of_processes_if_it_can_have_it(here):
    (here.folder / "mine.yaml").write_text(SHARED)
    run_id = here("submit", "mine.yaml", "-q").stdout.strip()
    here("runs", "gpus", run_id, "2")
    assert json.loads(here("runs", "show", run_id, "--json").stdout)["run"]["gpus"] == 2
    assert "1 or 2 would do" in here("runs", "gpus", run_id, "3", code=2).stderr
    assert "how many?" in here("runs", "gpus", run_id, code=2).stderr


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        (3, "3 is no power of two; 1 or 2 would do with train.accumulate: 2"),
        (4, "pieces that 4 cannot share; 1 or 2 would do, or set train.accumulate: 4"),
        (128, "a batch of 128 images has no 128 pieces of two images; 1 or 2 would do"),
    ],
)
def test_a_number_of_processes_that_cannot_share_the_run_is_refused_with_those_that_can(
    here, ranks, said
):
    (here.folder / "mine.yaml").write_text(SHARED)
    refused = here("submit", "mine.yaml", "--gpus", str(ranks), code=2)
    assert said in refused.stderr
    assert f"`mine` on {ranks} processes (--gpus)" in refused.stderr
    assert not (here.folder / ".lsqctl").exists(), "nothing is queued, and no workspace made"
