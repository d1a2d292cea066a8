"""`lsqctl.record`: an own loop's run, on the board as its own row, whatever becomes of the loop."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lsqctl
from lsqctl.errors import Diverged, IllegalTransition, StoreError, UsageError
from lsqctl.quant import QuantSpec, calibrate, prepare
from lsqctl.run import EndReason, RunState
from lsqctl.services.workspace import open_workspace
from lsqctl.settings import load_settings
from lsqctl.store import open_store
from tests.conftest import FULL, wait_for
from tests.worker.test_faults_of_the_database import Held

ROOT = Path(__file__).resolve().parents[2]
N = 540  # images of digits' evaluation split
NAME = "mine/net"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10)
    )


def begin(name=NAME, *, seed=0, **words):
    return lsqctl.record(name, dataset="digits", seed=seed, **words)


def finish(run, n_correct=500, **words) -> str:
    run.finish(n_correct=n_correct, n_total=N, **words)
    return run.id


def detail(run_id: str):
    with open_workspace(load_settings()) as store:
        return store.runs.detail(run_id)


def board_rows(here) -> list[dict[str, object]]:
    told = here("leaderboard", "--published", "none", "--json").stdout
    return [row for table in json.loads(told)["tables"] for row in table["rows"]]


def test_runs_of_one_name_are_one_row_with_seeds_metrics_cost_and_provenance(here):
    net = network()
    for seed, n_correct in ((0, 500), (1, 510)):
        with begin(seed=seed, model=net, input_shape=(1, 8, 8), recipe={"lr": 0.1}) as run:
            run.log(epoch=1, loss=torch.tensor(0.5), top1=90.0)
            run.log(epoch=2, loss=0.25, top1=92.5)
            finish(run, n_correct)
    (row,) = board_rows(here)
    assert (row["model"], row["n_seeds"], row["eval_n"], row["epochs"]) == (NAME, 2, N, 2)
    assert row["top1_mean"] == pytest.approx(100 * 505 / N)
    assert row["params"] == sum(parameter.numel() for parameter in net.parameters())
    assert (row["arch"], row["weight_bits"], row["gmacs"] > 0) == ("Sequential", 32, True)
    told = json.loads(here("runs", "show", run.id, "--json").stdout)
    assert told["recipe"]["recorded"] == {"lr": 0.1}
    assert told["provenance"]["lsqctl"] == lsqctl.__version__
    assert [a["reason"] for a in told["attempts"]] == ["completed"]
    (loss, top1) = told["metrics"]
    assert (loss["name"], loss["last"], loss["last_step"], top1["best"]) == ("loss", 0.25, 2, 92.5)


def test_where_a_recorded_run_was_made_is_told_and_that_it_has_no_log(here, monkeypatch):
    script = Path(__file__)  # the tests' own process may have none
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    run_id = finish(begin())
    made = f"recorded of {script} on {platform.node()}, which lsqctl did not run"
    shown = here("runs", "show", run_id).stdout
    assert f"origin\t{made}\n" in shown
    assert "folder\tnone here: it has no log, and no checkpoint was recorded" in shown
    for words in (("runs", "logs", run_id), ("runs", "logs", "-f", run_id)):
        told = here(*words, code=3)
        assert told.stdout == ""
        assert f"run {run_id} has no log here: it was {made}" in told.stderr


def test_a_prepared_network_tells_its_bits_and_its_cost(here):
    net = prepare(network(), QuantSpec(weight_bits=4, act_bits=3))
    calibrate(net, [torch.randn(4, 1, 8, 8)])
    with begin(model=net, input_shape=(1, 8, 8)) as run:
        finish(run)
    (row,) = board_rows(here)
    assert (row["weight_bits"], row["act_bits"]) == (4, 3)
    assert row["first_last_bits"] == "w8a8"
    assert row["size_bytes"] < 4 * row["params"]


def test_its_row_is_visibly_none_that_lsqctl_ran_and_is_never_verified(here):
    with begin(seed=3) as run:
        finish(run, checkpoint=network().state_dict())
    (row,) = board_rows(here)
    assert (row["origin"], row["verified"]) == ("recorded", None)
    assert "recorded: as its own loop counted" in row["notes"]
    table = here("leaderboard").stdout
    assert f"◐ {NAME}" in table
    assert "recorded, not run by lsqctl" in table
    told = here("verify", run.id, code=1)
    assert "cannot measure again; the checkpoint holds the bytes" in told.stdout + told.stderr
    assert board_rows(here)[0]["verified"] is None
    (folder,) = (here.folder / ".lsqctl" / "runs" / run.id).glob("ckpt-*")
    (folder / "model.pt").write_bytes(b"other")
    here("verify", run.id, code=1)
    assert board_rows(here)[0]["verified"] is False


def test_what_needs_a_recipe_is_refused_in_one_line(here):
    with begin() as run:
        finish(run, checkpoint=network().state_dict())
    for words in (
        ["recipe", "show", run.id],
        ["submit", run.id],
        ["runs", "show", run.id, "--cost"],
    ):
        assert "was recorded of a loop of its own" in here(*words, code=2).stderr
    with pytest.raises(UsageError, match="was recorded of a loop of its own"):
        lsqctl.load_model(run.id)


def test_compare_works_where_hits_are_given_in_the_order_of_the_dataset(here):
    right = [True] * 500 + [False] * 40
    for name, hits in (("mine/a", right), ("mine/b", right[::-1])):
        with begin(name) as run:
            finish(run, hits=hits)
    compared = lsqctl.compare("mine/a", "mine/b")
    assert (compared.n_images, compared.rows[0].only_first) == (N, 40)
    with open_workspace(load_settings()) as store:
        assert store.results.get(run.id).data_digest.startswith("sha256:")
    other = begin("mine/c")
    with pytest.raises(UsageError, match="digits has 540 images"):
        other.finish(n_correct=1, n_total=2, hits=[0, 1])
    other.fail()


def test_hits_tell_the_counts_and_without_either_it_says_what_is_needed(here):
    run = begin()
    with pytest.raises(UsageError, match="finish needs n_correct and n_total, or hits"):
        run.finish()
    run.finish(hits=torch.tensor([1, 0, 1] * 180))
    with open_workspace(load_settings()) as store:
        (one,) = store.results.evaluations(run.id)
    assert (one.n_correct, one.n_total) == (360, 540)


def test_without_hits_it_stands_beside_runs_of_the_same_dataset(here):
    for name, words in (("mine/a", {"hits": [1] * 500 + [0] * 40}), ("mine/b", {})):
        with begin(name) as run:
            finish(run, **words)
    assert len({row["rank"] for row in board_rows(here)}) == 1
    assert here("leaderboard", "--dataset", "digits").stdout.count("540 test images") == 1


@pytest.mark.parametrize(
    ("metrics", "error", "said"),
    [
        ({"top1": "90 %"}, UsageError, "metric `top1` must be one number, got '90 %'"),
        ({"loss": torch.zeros(2)}, UsageError, "metric `loss` must be one number"),
        ({"loss": None}, UsageError, "metric `loss` must be one number"),
        ({"loss": float("nan")}, Diverged, "metric `loss` is nan at step 1"),
        ({"val_top5": 100.5}, UsageError, "`val_top5` is in percent, 0 to 100; got 100.5"),
        ({"top1": -1}, UsageError, "is in percent"),
        ({"a b": 1}, UsageError, "`a b` cannot name a metric"),
        ({"step": -1}, UsageError, "step must be a whole number of at least 0"),
        (
            {"step": 2**70},
            UsageError,
            "step must be a whole number of at least 0, 9007199254740992",
        ),
        ({"loss": 10**400}, UsageError, "metric `loss` must be one number"),
        ({"loss": 1, "split": None}, UsageError, "split=None: letters, digits and"),
    ],
)
def test_a_bad_metric_is_one_line_and_nothing_of_its_call_is_stored(here, metrics, error, said):
    run = begin()
    with pytest.raises(error, match=said.replace("(", r"\(")) as raised:
        run.log(fine=1.0, **metrics)
    assert "\n" not in str(raised.value)
    run.log(other=2.0)  # the loop may go on
    finish(run)
    with open_workspace(load_settings()) as store:
        assert [summary.name for summary in store.metrics.summaries(run.id)] == ["other"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"n_correct": 11, "n_total": 10}, "no more is right than was evaluated"),
        ({"n_correct": 0, "n_total": 0}, "no more is right than was evaluated"),
        ({"n_correct": 5, "n_total": 10, "n_correct_top5": 4}, "n_correct_top5 4"),
        ({"n_correct": 5.5, "n_total": 10}, "n_correct must be a whole number"),
        ({"n_correct": 2, "n_total": 3, "hits": [1, 0, 0]}, "hits say 1 of 3 images"),
        ({"n_correct": 2, "n_total": 3, "loss": "low"}, "metric `loss` must be one number"),
        ({"n_correct": 2, "n_total": 3, "checkpoint": {"a": 1}}, "`a` is none"),
        (
            {"n_correct": 2, "n_total": 3, "checkpoint": 3},
            "must be a state dict, got int; of a net",
        ),
        ({"n_correct": 2, "n_total": 2**70}, "n_total must be a whole number of at least 0, 9007"),
        ({"n_correct": 2, "n_total": 3, "split": None}, "split=None: letters"),
        ({"n_correct": 2, "n_total": 3, "notes": None}, "notes must be a text, got None"),
        ({"n_correct": 2, "n_total": 3, "train_seconds": float("nan")}, "seconds, at least 0, got"),
        ({"hits": [0.3, 0.9, 0.1]}, "hits must hold one truth value an image.*number 0 is none"),
        ({"hits": "110"}, "hits must hold one truth value an image.*number 0 is none, in str"),
        ({"hits": [1, 2]}, "hits must hold one truth value an image.*number 1 is none"),
        ({"hits": torch.ones(2, 2)}, "hits must hold one truth value.*in Tensor"),
        ({"hits": 3}, "hits must hold one truth value"),
    ],
)
def test_counts_that_cannot_be_are_refused_and_the_run_goes_on(here, words, said):
    run = begin()
    with pytest.raises(UsageError, match=said):
        run.finish(**words)
    finish(run)
    assert detail(run.id).run.state is RunState.SUCCEEDED


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"name": "../evil"}, "name='../evil'"),
        ({"seed": -1}, "seed=-1"),
        ({"weight_bits": 9}, "weight_bits=9"),
        ({"recipe": {"net": object()}}, "must be plain values"),
        ({"model": network(), "input_shape": (3, 8, 8)}, r"does not take an input of \(3, 8, 8\)"),
        ({"tags": ["-x"]}, "cannot be a tag"),
        ({"tags": "paper"}, r"tags='paper': a list of words, as \['paper'\]"),
        ({"epochs": -3}, "epochs must be a whole number of at least 0, got -3"),
        ({"arch": "net\0"}, "arch must be a text"),
        ({"recipe": ["lr", 0.1]}, "must map names to plain values, got list"),
        ({"recipe": {"note": "\ud800"}}, "holds a character that no text has"),
        ({"recipe": {"lr": torch.ones(2)}}, "must be plain values"),
        ({"model": torch.nn.Linear}, "model must be a network, an nn.Module"),
        ({"model": network(), "input_shape": 3}, "does not take an input of 3: "),
    ],
)
def test_what_could_not_stand_on_a_board_is_refused_before_anything_is_made(here, words, said):
    with pytest.raises(UsageError, match=said):
        begin(**words)
    assert not (here.folder / ".lsqctl" / "lsqctl.db").exists()


def test_numbers_of_numpy_and_torch_are_as_pythons_own_and_wrapped_networks_as_bare_ones(here):
    recipe = {"lr": np.float32(0.5), "width": torch.tensor(3), 1: "one"}
    net = torch.nn.DataParallel(network())
    run = begin(seed=np.int64(3), recipe=recipe, model=net, input_shape=(1, 8, 8))
    run.log(epoch=torch.tensor(2), loss=torch.tensor(1.0, requires_grad=True))
    run.finish(n_correct=torch.tensor(500), hits=torch.arange(N) < 500)
    stored = detail(run.id)
    assert (stored.run.seed, stored.run.state) == (3, RunState.SUCCEEDED)
    assert stored.recipe["recorded"] == {"lr": 0.5, "width": 3, "1": "one"}
    assert stored.recipe["model"] == {"name": "Sequential"}


def test_a_fork_of_the_process_that_records_neither_writes_nor_ends_its_run(here):
    with begin() as run:
        if not (child := os.fork()):
            try:
                with pytest.raises(UsageError, match="is of the process that called record"):
                    run.log(loss=1.0)
                run.fail("not mine")
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        finish(run)
    assert detail(run.id).run.state is RunState.SUCCEEDED


def test_a_dataset_that_is_nearly_one_of_lsqctls_is_warned_of_and_recorded(here):
    with pytest.warns(UserWarning, match="called `digit`; did you mean `digits`") as warned:
        finish(lsqctl.record("mine/a", dataset="digit"))
    assert warned[0].filename == __file__
    finish(lsqctl.record("mine/b", dataset="my-cifar10"))  # somebody's own: not a word


def test_one_name_and_seed_is_recorded_once_unless_asked(here):
    first = begin()
    with pytest.raises(UsageError, match=f"recorded already as run {first.id} .running.*fail"):
        begin()
    finish(first)
    with pytest.raises(UsageError, match=f"as run {first.id} .succeeded.*rerun"):
        begin()
    assert finish(begin(if_exists="rerun")) != first.id
    other = begin(recipe={"lr": 1})  # another recipe is another row
    other.fail("gave up")
    assert finish(begin(recipe={"lr": 1})) != other.id  # what failed may be tried again
    assert [lsqctl.runs(states=["failed"])[0].message] == ["gave up"]


def test_a_loop_that_raises_ends_as_failed_with_its_reason_and_keeps_its_metrics(here):
    run = begin()
    run.log(loss=0.5)
    with pytest.raises(ZeroDivisionError), run:
        _ = 1 / 0
    ended = detail(run.id).run
    assert (ended.state, ended.reason) == (RunState.FAILED, EndReason.CODE)
    assert ended.message == "ZeroDivisionError: division by zero"
    with pytest.raises(KeyboardInterrupt), begin(seed=1) as run:
        raise KeyboardInterrupt
    assert detail(run.id).run.state is RunState.CANCELLED
    with pytest.raises(UsageError, match="ended without run"), begin(seed=2) as run:
        pass
    with pytest.raises(UsageError, match="has ended"):
        run.log(loss=1)
    with open_workspace(load_settings()) as store:
        with pytest.raises(IllegalTransition, match="start the loop of `mine/net` again"):
            store.runs.retry(run.id)
        assert len(store.metrics.points(lsqctl.runs(where="seed = 0")[0].id)) == 1


def test_a_cancelled_run_tells_its_loop(here, monkeypatch):
    monkeypatch.setenv("LSQCTL_LEASE", "0.6")
    run = begin()
    here("runs", "cancel", run.id)
    wait_for(lambda: detail(run.id).run.state is RunState.CANCELLED)
    with pytest.raises(UsageError, match="has ended: cancelled"):
        run.log(loss=1.0)


def test_no_worker_waits_for_a_loop_or_takes_its_run(here):
    run = begin()
    with open_workspace(load_settings()) as store:
        assert store.queue.remaining().runnable == 0
        assert store.maintenance.check() == []
    finish(run)


KILLED = """
import lsqctl, sys, time
run = lsqctl.record("mine/killed", dataset="digits")
run.log(epoch=1, loss=0.5)
print(run.id, flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_loop_that_is_killed_ends_as_lost_with_its_metrics_and_can_begin_again(here):
    script = here.folder / "loop.py"
    script.write_text(KILLED)
    environment = os.environ | {"LSQCTL_LEASE": "2", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as loop:
        run_id = loop.stdout.readline().strip()
        with open_workspace(load_settings()) as store:
            wait_for(lambda: len(store.metrics.points(run_id)) == 1)
        loop.send_signal(signal.SIGKILL)
    again = begin("mine/killed")
    lost = detail(run_id)
    assert (lost.run.state, lost.run.reason) == (RunState.FAILED, EndReason.WORKER_LOST)
    assert "its loop, is no more" in lost.run.message
    assert lost.provenance["script"]["path"] == str(script)
    finish(again)


def test_a_database_that_is_away_loses_no_metric_and_stops_no_loop(here):
    run = begin()
    with open_workspace(load_settings()) as store:
        run._store.close()
        run._store = open_store(load_settings().db_url, busy_seconds=0.05)
        blocked = store._database.engine.raw_connection()
        blocked.execute("BEGIN EXCLUSIVE")
        run._flushed_at = 0.0
        with pytest.warns(UserWarning, match="metrics wait in memory"):
            run.log(loss=0.5)
        blocked.rollback()
        blocked.close()
        finish(run)
        assert len(store.metrics.points(run.id)) == 1


def test_why_a_loop_failed_is_stored_though_the_database_is_locked_just_then(here):
    run = begin()
    run._store.close()
    run._store = open_store(load_settings().db_url, busy_seconds=0.05)
    write_pending, held = run._write_pending, []

    def locked_afterwards():
        write_pending()
        if not held:
            held.append(Held(here.folder / ".lsqctl" / "lsqctl.db"))
            threading.Timer(3.0, held[0].release).start()

    run._write_pending = locked_afterwards
    run.fail("the disk is full", EndReason.INFRA)
    failed = detail(run.id).run
    assert held
    assert (failed.reason, failed.message) == (EndReason.INFRA, "the disk is full")


def cells() -> list[str]:
    notebook = json.loads((ROOT / "examples" / "record" / "own_loop.ipynb").read_text("utf-8"))
    assert notebook["nbformat"] == 4
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_cells_of_the_notebook_run_one_after_the_other(here):
    told: dict[str, object] = {"__name__": "__main__"}
    for cell in cells():
        exec(compile(cell, "own_loop.ipynb", "exec"), told)
    (row,) = [row for row in board_rows(here) if row["origin"] == "recorded"]
    assert (row["n_seeds"], row["weight_bits"], row["act_bits"]) == (2, 4, 4)
    assert row["top1_mean"] > 50  # it has learned


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel_of_jupyter(here):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "examples" / "record" / "own_loop.ipynb", as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(here.folder)}})
    client.execute()
    assert FULL
    assert board_rows(here)[0]["origin"] == "recorded"


def test_the_page_tells_the_truth(here):
    page = (ROOT / "docs" / "recording.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(compile(block, "recording.md", "exec"), {"__name__": "page"})
    (row,) = board_rows(here)
    assert (row["model"], row["weight_bits"], row["top1_mean"]) == ("mine/linear-w8a8", 8, 80.0)
    assert "mine/linear-w8a8" in here("runs", "ls", "--where", "origin = 'recorded'").stdout


def test_verifying_all_passes_by_what_was_recorded_and_fails_only_where_its_bytes_are_gone(here):
    with begin(seed=0) as kept:
        finish(kept, checkpoint=network().state_dict())
    with begin(seed=1) as bare:
        finish(bare)
    told = here("verify", "--all").stderr
    assert "0 of 0 results verified; 2 recorded runs cannot be" in told
    assert "the checkpoint holds the bytes" in told
    assert "no checkpoint was recorded" in told
    (folder,) = (here.folder / ".lsqctl" / "runs" / kept.id).glob("ckpt-*")
    (folder / "model.pt").write_bytes(b"other")
    results = json.loads(here("verify", "--all", "--json", code=1).stdout)["results"]
    assert {(one["run_id"], one["verified"], one["recorded"]) for one in results} == {
        (kept.id, False, True), (bare.id, None, True)
    }  # fmt: skip


def test_a_result_whose_answer_was_lost_is_stored_and_not_called_lost(here, monkeypatch):
    run = begin()
    finish_run = run._store.queue.finish

    def finish_and_lose_the_answer(*words):
        monkeypatch.setattr(run._store.queue, "finish", finish_run)
        finish_run(*words)
        raise StoreError("the connection was closed")

    monkeypatch.setattr(run._store.queue, "finish", finish_and_lose_the_answer)
    finish(run)
    assert detail(run.id).run.state is RunState.SUCCEEDED


def test_a_network_without_convolutions_or_linear_layers_is_recorded(here):
    run = begin(model=nn.Conv1d(3, 4, 3), input_shape=(3, 8))
    finish(run)
    assert detail(run.id).run.state is RunState.SUCCEEDED


def test_a_board_with_recorded_rows_tells_the_deviations_of_the_others(here):
    finish(begin(weight_bits=4, act_bits=4, arch="mine"))
    assert NAME in here("leaderboard", "--published", "none", "--deviations").stdout
