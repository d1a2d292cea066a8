"""Laws of the worker, on real processes and real signals."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest

from lsqctl.run import EndReason, RunState
from tests.conftest import TINY, wait_for
from tests.store.samples import identity, take
from tests.worker.injected import heal
from tests.worker.long_run import (
    ENDLESS,
    LONG,
    assert_same_end,
    at_work,
    lives,
    slow_down,
    store_of,
    submitted,
    trainers,
)


@pytest.mark.slow
def test_a_sweep_waits_for_its_parent_and_every_run_gets_a_result(cli):
    cli.write("base.yaml", TINY)
    cli.write(
        "sweep.yaml",
        TINY.replace("{name: resnet8}", "{name: resnet8, weights: {run: base}}")
        + "sweep:\n  zip: {quant.weight_bits: [4, 2], quant.act_bits: [4, 2]}\n",
    )
    cli("submit", "sweep.yaml")
    cli("worker", "--until-empty", "--slots", "2")
    with store_of(cli) as store:
        runs = {run.name: run for run in store.runs.list()}
        assert {run.state for run in runs.values()} == {RunState.SUCCEEDED}
        assert set(runs) == {"base", "sweep-w4a4", "sweep-w2a2"}
        rows = {row.name: row for row in store.results.board_rows()}
    parent = rows["base"]
    for name in ("sweep-w4a4", "sweep-w2a2"):
        assert rows[name].fp32_n_correct == parent.n_correct
        assert rows[name].n_total == 540
        assert Path(rows[name].checkpoint_path).is_dir()
        assert len(rows[name].checkpoint_sha256) == 64
    assert runs["sweep-w4a4"].started_at > runs["base"].finished_at
    assert runs["base"].epoch == runs["base"].epochs == 2


def test_a_later_attempt_says_how_many_threads_it_has_which_are_those_of_the_first(cli):
    run_id = submitted(cli, TINY)
    with store_of(cli) as store:
        store.workers.register(identity("w1"))
        lease = take(store).lease
        store.queue.record_environment(lease, {"device": "cpu", "threads": 3, "compile": False})
        store.queue.release(lease)
        told = cli("worker", "--until-empty", "--slots", "1").stderr
        attempts = store.runs.detail(run_id).attempts
    assert "started on cpu, 3 threads, attempt 2" in told
    assert [attempt.environment["threads"] for attempt in attempts] == [3, 3]


def test_a_worker_without_a_run_says_that_it_waits_or_that_none_is_queued(cli):
    assert "no run is queued; `lsqctl submit RECIPE`" in cli("worker", "--until-empty").stderr
    worker = cli.start("worker")
    assert worker.stdout is not None
    words = iter(worker.stdout.readline, "")
    assert any("waiting for runs; Ctrl-C ends the worker" in line for line in words)
    worker.terminate()
    worker.communicate(timeout=60)


def test_a_worker_whose_workspace_is_removed_says_so_and_ends(cli):
    run_id = submitted(cli, ENDLESS)
    worker = cli.start("worker", "--slots", "2")
    with store_of(cli) as store:
        wait_for(lambda: at_work(store, run_id))
    children = psutil.Process(worker.pid).children(recursive=True)
    while (cli.folder / ".lsqctl").exists():  # the trainer renames what is being removed
        shutil.rmtree(cli.folder / ".lsqctl", ignore_errors=True)
    words, _ = worker.communicate(timeout=30)
    assert worker.returncode == 4
    assert "was removed" in words
    wait_for(lambda: not any(map(lives, children)))


def test_a_killed_worker_takes_its_trainer_along_and_the_run_is_taken_up_again(cli, uninterrupted):
    run_id = submitted(cli, LONG)
    worker = cli.start("worker", "--slots", "2")
    with store_of(cli) as store:
        wait_for(lambda: at_work(store, run_id))
        children = psutil.Process(worker.pid).children(recursive=True)
        assert len(children) >= 2, "the warmed parent and the trainer"
        worker.kill()
        wait_for(lambda: not any(map(lives, children)))
        cli("worker", "--until-empty", "--slots", "2")
        attempts = store.runs.detail(run_id).attempts
    assert [one.reason for one in attempts] == [EndReason.WORKER_LOST, EndReason.COMPLETED]
    assert attempts[1].resumed_step
    assert_same_end(cli, run_id, uninterrupted)


def test_sigterm_saves_the_run_puts_it_back_and_spends_no_attempt(cli, uninterrupted):
    run_id = submitted(cli, LONG)
    worker = cli.start("worker", "--slots", "2")
    with store_of(cli) as store:
        wait_for(lambda: at_work(store, run_id))
        family = [worker, *psutil.Process(worker.pid).children(recursive=True)]
        for process in family:  # as a scheduler does it
            process.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 128 + signal.SIGTERM
        detail = store.runs.detail(run_id)
        assert detail.run.state is RunState.QUEUED
        assert [one.reason for one in detail.attempts] == [EndReason.PREEMPTED]
        saved = max(one.step for one in store.checkpoints.list(run_id))
        assert saved >= 30
        cli("worker", "--until-empty", "--slots", "2")
        assert store.runs.detail(run_id).attempts[1].resumed_step == saved
    assert_same_end(cli, run_id, uninterrupted)


@pytest.mark.slow
def test_a_trainer_that_is_killed_is_tried_again(cli, uninterrupted):
    run_id = submitted(cli, LONG)
    worker = cli.start("worker", "--until-empty", "--slots", "2")
    with store_of(cli) as store:
        wait_for(lambda: at_work(store, run_id))
        os.killpg(trainers(worker.pid)[0].pid, signal.SIGKILL)
        assert worker.wait(120) == 0
        attempts = store.runs.detail(run_id).attempts
    assert [one.reason for one in attempts] == [EndReason.INFRA, EndReason.COMPLETED]
    assert "SIGKILL" in attempts[0].message
    assert_same_end(cli, run_id, uninterrupted)


def test_a_fork_server_that_is_killed_is_replaced_and_its_run_tried_again(cli, uninterrupted):
    run_id = submitted(cli, LONG)
    worker = cli.start("worker", "--until-empty", "--slots", "2")
    with store_of(cli) as store:
        wait_for(lambda: at_work(store, run_id))
        trainer = trainers(worker.pid)[0]
        trainer.parent().kill()
        wait_for(lambda: not lives(trainer))
        assert worker.wait(120) == 0
        attempts = store.runs.detail(run_id).attempts
    assert [one.reason for one in attempts] == [EndReason.INFRA, EndReason.COMPLETED]
    assert attempts[0].message == "the fork server ended: killed by SIGKILL"
    assert_same_end(cli, run_id, uninterrupted)


def test_time_limits_save_a_run_and_say_how_it_goes_on(cli):
    run_id = submitted(cli, ENDLESS, "--time-limit", "2s")
    cli("worker", "--until-empty", "--slots", "2")
    with store_of(cli) as store:
        run = store.runs.detail(run_id).run
        assert (run.state, run.reason) == (RunState.FAILED, EndReason.TIMEOUT)
        assert f"over its time limit of 2 s; `lsqctl runs retry {run_id}` goes on" in run.message
        saved = max(one.step for one in store.checkpoints.list(run_id))
        cli("runs", "retry", run_id)
        cli("worker", "--slots", "2", "--time-limit", "1s")  # the worker's own: it ends with 0
        detail = store.runs.detail(run_id)
    assert detail.run.state is RunState.QUEUED
    assert [one.reason for one in detail.attempts] == [EndReason.TIMEOUT, EndReason.PREEMPTED]
    assert detail.attempts[1].resumed_step == saved


def test_a_name_belongs_to_one_live_worker(cli):
    first = cli.start("worker", "--name", "night")
    with store_of(cli) as store:
        wait_for(store.workers.list)
        (known,) = store.workers.list()
        refused = cli("worker", "--name", "night", "--until-empty", code=2)
        assert f"process {known.identity.pid} on" in refused.stderr
        assert "another --name" in refused.stderr
        cli("worker", "--until-empty")  # a default name conflicts with none
        first.send_signal(signal.SIGUSR1)  # Slurm's --signal=USR1@60
        assert first.wait(30) == 128 + signal.SIGTERM
    cli("worker", "--name", "night", "--until-empty")


@pytest.mark.parametrize("name", ["", " ", "a\nb"])
def test_a_name_that_no_list_could_show_is_refused(here, name):
    assert "must have a letter" in here("worker", "--until-empty", "--name", name, code=2).stderr


def test_a_running_run_that_is_cancelled_stops_and_can_be_retried(cli, uninterrupted):
    slow_down(cli)
    run_id = submitted(cli, LONG)
    worker = cli.start("worker", "--until-empty", "--slots", "2")
    with store_of(cli) as store:
        wait_for(lambda: at_work(store, run_id))
        cli("runs", "cancel", run_id)
        said, _ = worker.communicate(timeout=60)
        assert worker.returncode == 0
        assert f"cancelled; lsqctl runs retry {run_id} goes on" in said
        assert store.runs.detail(run_id).run.state is RunState.CANCELLED
    heal(cli)
    cli("runs", "retry", run_id)
    cli("worker", "--until-empty", "--slots", "2")
    assert_same_end(cli, run_id, uninterrupted)


def test_a_run_that_diverges_fails_with_its_reason_and_so_do_its_children(cli):
    cli.write("base.yaml", TINY.replace("lr: 0.1", "lr: 1000.0"))
    child = TINY.replace("{name: resnet8}", "{name: resnet8, weights: {run: base}}")
    cli.write("child.yaml", child)
    done = cli("run", "child.yaml", code=5)
    assert "did not succeed" in done.stderr
    assert "next:" not in done.stderr
    with store_of(cli) as store:
        runs = {run.name: run for run in store.runs.list()}
    assert runs["base"].reason is EndReason.DIVERGED
    assert "lower train.lr" in runs["base"].message
    assert runs["child"].reason is EndReason.PARENT
    assert "base" in runs["child"].message


def test_a_second_signal_ends_at_once_and_still_puts_the_run_back(cli):
    run_id = submitted(cli, ENDLESS)
    worker = cli.start("worker", "--slots", "2")
    with store_of(cli) as store:
        wait_for(lambda: store.runs.detail(run_id).run.state is RunState.RUNNING)
        worker.send_signal(signal.SIGINT)
        worker.send_signal(signal.SIGINT)
        assert worker.wait(30) == 128 + signal.SIGINT
        assert store.runs.detail(run_id).run.state is RunState.QUEUED


def test_the_log_of_an_attempt_is_kept_private_and_has_a_line_for_each_epoch(cli):
    run_id = submitted(cli, TINY)
    cli("worker", "--until-empty")
    log = cli.folder / ".lsqctl" / "runs" / run_id / "attempt-1.log"
    assert log.stat().st_mode & 0o077 == 0
    assert cli("runs", "logs", run_id).stdout == log.read_text()
    assert cli("runs", "logs", "-f", run_id).stdout == log.read_text()
    lines = [line for line in log.read_text().splitlines() if line.startswith("lsqctl: epoch ")]
    assert [line.split()[2] for line in lines] == ["1/2,", "2/2,"]
    assert all(word in line for line in lines for word in ("train loss", "test loss", "test top1"))


def test_a_dataset_that_is_gone_when_the_run_starts_is_said_in_one_line(cli):
    text = TINY.replace("digits", "cifar10").replace("resnet8", "cifar_resnet20")
    run_id = submitted(cli, text, "--skip-data-check")
    cli("worker", "--until-empty")
    with store_of(cli) as store:
        run = store.runs.detail(run_id).run
    assert run.reason is EndReason.DATA
    assert "data fetch cifar10" in run.message


def test_no_worker_holds_torch():
    """The supervisor never imports torch: a GIL held in a kernel cannot stop its heartbeat."""
    import subprocess
    import sys

    probe = "import sys, lsqctl.worker.supervisor; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_folder_of_images_trains_with_a_loader_process(cli):
    """The thread that watches the supervisor must hold no lock that a forked loader needs."""
    from PIL import Image

    for number, (split, label) in enumerate((s, c) for s in ("train", "val") for c in ("a", "b")):
        folder = cli.folder / "data" / "imagefolder" / split / label
        folder.mkdir(parents=True)
        for image in range(4):
            colour = (50 * number, 20 * image, 100)
            Image.new("RGB", (80, 72), colour).save(folder / f"{image}.png")
    text = (
        "model: {name: squeezenet1_1}\n"
        "data: {name: imagefolder, batch_size: 4, resize: 64, crop: 64}\n"
        "train: {epochs: 1, lr: 0.001}\n"
    )
    cli.write("mine.yaml", text)
    cli("run", "mine.yaml", "--data-dir", "data", "--slots", "1")
    with store_of(cli) as store:
        (row,) = store.results.board_rows()
    assert row.n_total == 8
