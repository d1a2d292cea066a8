"""`runs extend`: what is queued, what the board shows of the chain, and what is refused."""

from __future__ import annotations

import json
import platform
import shutil

import pytest

from lsqctl.store import open_store
from tests.conftest import TINY, CommandLine
from tests.store.samples import identity, result, take


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workspace with a run of one epoch, extended by one."""
    line = CommandLine(tmp_path_factory.mktemp("extended"))
    line.write("net.yaml", TINY.replace("epochs: 2", "epochs: 1"))
    line("run", "net.yaml")
    line("runs", "extend", "net", "--epochs", "1", "-q")
    line("worker", "--until-empty")
    return line


@pytest.fixture
def extended(trained, here):
    shutil.copytree(trained.folder, here.folder / "copy")
    here.enter(here.folder / "copy")
    return here


def rows(here):
    told = here("leaderboard", "--published", "none", "--json").stdout
    return {row["model"]: row for table in json.loads(told)["tables"] for row in table["rows"]}


def listed(here):
    return {run["name"]: run for run in json.loads(here("runs", "ls", "--json").stdout)["runs"]}


def test_the_board_shows_the_chain_and_the_epochs_of_all_of_it(extended):
    words = ("--epochs", "1", "--schedule", "constant", "--lr", "0.01")
    extended("runs", "extend", "net-e2", *words)
    with open_store(f"sqlite:///{extended.folder}/.lsqctl/lsqctl.db") as store:
        store.workers.register(identity("w1"))
        store.queue.finish(take(store).lease, result())
    ids = {name: run["id"] for name, run in listed(extended).items()}
    found = rows(extended)
    assert [found[name]["epochs"] for name in ("net", "net-e2")] == [1, 2]
    assert [run["epochs"] for run in listed(extended).values()] == [3, 2, 1]
    assert found["net"]["chain"] is None
    assert found["net-e2"]["chain"] == ids["net"]
    assert found["net-e3"]["chain"] == f"{ids['net']} → {ids['net-e2']}"
    assert f"goes on from {ids['net']}" in extended("leaderboard").stdout
    shown = json.loads(extended("runs", "show", "net-e3", "--json").stdout)
    assert shown["parents"] == {"extension.run": ids["net-e2"]}
    assert shown["recipe"]["extension"] == {"run": ids["net-e2"]}
    train = shown["recipe"]["train"]
    assert (train["epochs"], train["schedule"], train["lr"]) == (3, "constant", 0.01)


def test_the_same_extension_is_not_queued_twice(extended):
    assert "exists" in extended("runs", "extend", "net", "--epochs", "1").stdout
    assert "net-e6" in extended("runs", "extend", "net", "--epochs", "5").stdout
    assert "mine" in extended("runs", "extend", "net", "--epochs", "7", "--name", "mine").stdout


def test_an_extension_that_is_tried_is_checked_and_not_queued(extended):
    before = listed(extended)
    trial = ("runs", "extend", "net", "--epochs", "5", "--dry-run")
    tried = extended(*trial)
    assert tried.stdout.split() == ["net-e6", "0", "6", before["net"]["id"]]
    assert "1 run would be queued; nothing was" in tried.stderr
    (planned,) = json.loads(extended(*trial, "--json").stdout)["runs"]
    assert planned["recipe"]["extension"] == {"run": before["net"]["id"]}
    assert listed(extended) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lr", "-1"], "`train.lr` is out of range"),
        (["--lr", "nan"], "bad value for `train.lr`"),
        (["--epochs", "1000000"], "must be at most 100,000 epochs, got 1000001"),
        (["--name", "a|b"], "bad name"),
        (["--name", ""], "bad name"),
    ],
)
def test_what_no_recipe_may_say_is_refused_with_its_place(extended, words, said):
    before = listed(extended)
    refused = extended("runs", "extend", "net", "--epochs", "1", *words, code=2).stderr
    assert said in refused
    assert f"--> run {before['net']['id']}:" in refused
    assert listed(extended) == before


def test_an_extension_is_submitted_again_as_any_run_is(extended):
    assert extended("submit", "net-e2", "--dry-run", "--json").stdout
    told = extended("submit", "net-e2", "--set", "train.momentum=0.5", code=2).stderr
    assert "train.momentum is 0.5, and 0.9 in run" in told
    told = extended("submit", "net-e2", "--set", "train.epochs=1", code=2).stderr
    assert "has trained 1 already; got 1" in told


def test_a_run_that_has_not_succeeded_is_not_extended(extended):
    queued = extended("runs", "extend", "net", "--epochs", "9", "-q").stdout.strip()
    told = extended("runs", "extend", queued, "--epochs", "1", code=1).stderr
    assert "is queued: only a run that succeeded is extended" in told
    extended("runs", "cancel", queued)
    assert "runs retry" in extended("runs", "extend", queued, "--epochs", "1", code=1).stderr
    extended("runs", "extend", "net", "--epochs", "0", code=2)


def test_a_checkpoint_that_is_gone_or_damaged_is_refused_at_the_command(trained, here):
    here.enter(trained.folder)  # of a copy, the checkpoints would still be found here
    before = len(listed(here))
    run = listed(here)["net"]["id"]
    folders = sorted((here.folder / ".lsqctl" / "runs" / run).glob("ckpt-*"))
    model = folders[-1] / "model.pt"
    kept = model.read_bytes()
    model.write_bytes(kept[:-1] + b"x")
    assert str(model) in here("runs", "extend", run, "--epochs", "3", code=1).stderr
    model.write_bytes(kept)
    for folder in folders:
        folder.rename(folder.with_name(f"kept-{folder.name}"))
    told = here("runs", "extend", run, "--epochs", "3", code=1).stderr
    for folder in folders:
        folder.with_name(f"kept-{folder.name}").rename(folder)
    assert f"run {run} (net) cannot be extended: its last checkpoint is gone" in told
    assert len(listed(here)) == before


def test_where_the_files_of_a_run_are_not_here_it_is_said_which_machine_ran_it(trained, here):
    here.enter(trained.folder)
    run = listed(here)["net"]["id"]
    folder = here.folder / ".lsqctl" / "runs" / run
    assert "(not here" not in here("runs", "show", run).stdout
    folder.rename(folder.with_name("elsewhere"))
    told = [
        here("runs", "show", run).stdout,
        here("runs", "logs", run, code=3).stderr,
        here("runs", "extend", run, "--epochs", "3", code=1).stderr,
    ]
    folder.with_name("elsewhere").rename(folder)
    assert all(f"it ran on {platform.node()}" in text for text in told), told
