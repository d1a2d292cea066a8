"""One worker, one queue, a different fault in each run: each ends with its own reason, alone."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import ExitStack

import pytest

from lsqctl.run import EndReason, RunState
from tests.conftest import TINY, CommandLine, tmpfs
from tests.worker.injected import inject
from tests.worker.long_run import reproducible, store_of

ROOT = os.getuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="NOT TESTED: mounted file systems (needs root)")

# In each trainer, at the second epoch's second step, by the run's name; some once, some always.
FAULTS = """
import ctypes, os, shutil, signal
from pathlib import Path
import torch

_step = train_step


def _first_time(session):
    marker = Path({folder!r}) / (session.recipe.name + ".did")
    if marker.exists():
        return False
    marker.touch()
    return True


def train_step(session, images, labels, *others):
    name = session.recipe.name
    if session.train_state.step == 7:
        if name == "oom":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\\nMore.")
        if name == "gil":
            ctypes.PyDLL(None).sleep(4)  # a PyDLL keeps the GIL
        if name == "bug":
            raise KeyError("a mistake in the code")
        if name == "killed" and _first_time(session):
            ballast = bytearray(os.urandom(4096) * 40_000)
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "vanished" and _first_time(session):
            shutil.rmtree(session.context.run_dir)
    _step(session, images, labels, *others)
"""
NAMES = ("oom", "gil", "bug", "killed", "vanished", "readonly", "full", "good")


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """Return the command line and each run's detail by name, after one worker did them all."""
    cli = CommandLine(tmp_path_factory.mktemp("faults"))
    inject(cli, training_finetuning=FAULTS.format(folder=str(cli.folder)))
    ids = {}
    for name in NAMES:  # one by one, for they are the same run under other names
        cli.write(f"{name}.yaml", TINY)
        done = cli("submit", f"{name}.yaml", "--if-exists", "rerun", "-q")
        ids[name] = done.stdout.strip()
    runs = cli.folder / ".lsqctl" / "runs"
    with ExitStack() as mounts:
        if ROOT:
            mounts.enter_context(tmpfs(runs / ids["full"], "1m"))
            mounts.enter_context(tmpfs(runs / ids["readonly"], "1m"))
            os.system(f"mount -o remount,ro {runs / ids['readonly']}")
        cli("worker", "--until-empty", "--slots", "2")
        left = sorted(path.name for path in (runs / ids["full"]).glob("ckpt*"))
    with store_of(cli) as store:
        details = {name: store.runs.detail(run_id) for name, run_id in ids.items()}
        metrics = {name: reproducible(store, run_id) for name, run_id in ids.items()}
        assert store.maintenance.check() == []
    return cli, details, metrics, left


def reasons(detail):
    return [one.reason for one in detail.attempts]


def test_a_run_without_a_fault_is_not_touched_by_the_others(worked):
    _, details, _, _ = worked
    assert details["good"].run.state is RunState.SUCCEEDED
    assert reasons(details["good"]) == [EndReason.COMPLETED]


def test_out_of_memory_is_not_tried_again_and_says_what_was_tried_in_one_line(worked):
    run = worked[1]["oom"].run
    assert (run.state, run.reason) == (RunState.FAILED, EndReason.OOM)
    assert reasons(worked[1]["oom"]) == [EndReason.OOM]
    assert run.message.startswith("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert "data.batch_size is 256" in run.message
    assert "peak memory" in run.message
    assert run.message.endswith("raise train.accumulate, or make data.batch_size smaller")
    assert "\n" not in run.message


def test_a_mistake_in_the_code_is_not_tried_again_and_its_traceback_is_in_the_log(worked):
    cli, details, _, _ = worked
    assert reasons(details["bug"]) == [EndReason.CODE]
    assert "KeyError: 'a mistake in the code'" in details["bug"].run.message
    assert "Traceback" in cli("runs", "logs", details["bug"].run.id).stdout


def test_a_gil_held_for_several_leases_loses_no_lease(worked):
    _, details, metrics, _ = worked
    assert reasons(details["gil"]) == [EndReason.COMPLETED]
    assert metrics["gil"] == metrics["good"]


def test_a_trainer_killed_without_a_word_is_tried_again_and_its_peak_memory_told(worked):
    _, details, metrics, _ = worked
    assert reasons(details["killed"]) == [EndReason.INFRA, EndReason.COMPLETED]
    told = details["killed"].attempts[0].message
    assert "killed by SIGKILL: by hand, or the machine ran out of memory" in told
    assert re.search(r"peak memory was (?:[2-9]\d\d MB|[\d.]+ GB)", told)  # it has imported torch
    assert metrics["killed"] == metrics["good"]


def test_a_run_folder_that_vanishes_is_a_fault_of_the_machine_and_the_run_begins_anew(worked):
    _, details, metrics, _ = worked
    first, second = details["vanished"].attempts
    assert (first.reason, second.reason) == (EndReason.INFRA, EndReason.COMPLETED)
    assert "has vanished" in first.message
    assert second.resumed_step is None
    assert metrics["vanished"] == metrics["good"]


@needs_root
def test_a_run_folder_that_cannot_be_written_is_a_fault_of_the_machine(worked):
    run = worked[1]["readonly"].run
    assert reasons(worked[1]["readonly"]) == [EndReason.INFRA] * 3
    assert run.state is RunState.FAILED
    assert "Read-only file system" in run.message


@needs_root
def test_a_full_disk_says_what_it_needs_and_keeps_the_last_good_checkpoint(worked):
    _, details, _, left = worked
    run = details["full"].run
    assert set(reasons(details["full"])) == {EndReason.INFRA}
    assert run.state is RunState.FAILED
    assert "disk full: need" in run.message
    assert "B free on" in run.message
    assert left
    assert not [name for name in left if "tmp" in name]


def test_a_finished_run_leaves_no_spool_behind(worked):
    cli, details, _, _ = worked
    for name in ("good", "gil", "killed", "vanished"):
        folder = cli.folder / ".lsqctl" / "runs" / details[name].run.id
        assert not list(folder.glob("spool-*")), name
    assert shutil.which("mount") or not ROOT
