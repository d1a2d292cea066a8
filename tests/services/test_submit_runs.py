"""`submit RUN`, `--grid`, `--tag`, `recipe show RUN`: what a run was, changed; quick sweeps."""

from __future__ import annotations

import json

import pytest

import lsqctl
from lsqctl.settings import load_settings
from lsqctl.store import open_store

NAME = "digits/resnet8-fp32"


def planned(here, *words, code=0):
    """Return what a submission would queue: name, seed and recipe of each run."""
    told = here("submit", *words, "--dry-run", "--json", code=code)
    return json.loads(told.stdout)["runs"] if code == 0 else told.stderr


def one_run(here, *words) -> str:
    return here("submit", *words, "-q").stdout.split()[-1]


def test_a_run_is_submitted_again_as_it_was_but_for_what_is_set(here):
    run = one_run(here, NAME, "--set", "train.epochs=3")
    (same,), *others = (planned(here, ref) for ref in (run, run[:5], "@last"))
    assert others == [[same], [same]]
    ref = "@last"
    (changed,) = planned(here, ref, "--set", "train.lr=0.07", "--seed", "5")
    assert same["recipe"]["train"]["epochs"] == changed["recipe"]["train"]["epochs"] == 3
    assert (changed["recipe"]["train"]["lr"], changed["seed"]) == (0.07, 5)
    assert (same["name"], same["seed"]) == (f"{NAME}-epochs3", 0)
    assert changed["name"] == f"{NAME}-epochs3-lr0.07"
    differing = {k for k in same["recipe"] if same["recipe"][k] != changed["recipe"][k]}
    assert differing == {"name", "train", "seed"}


def test_a_run_submitted_unchanged_is_there_already(here):
    run = one_run(here, NAME)
    assert one_run(here, run) == run
    told = here("submit", run)
    assert "exists" in told.stdout
    assert "warning" not in told.stderr


def test_a_run_that_is_there_under_another_name_keeps_it_and_that_is_said_once(here):
    words = (NAME, "--seed", "0", "--seed", "1")
    first = here("submit", *words, "-q").stdout.split()[0]
    said = f"`mine` is run {first}, there already as `{NAME}`, and 1 other: a run keeps its name"
    for quiet in ((), ("-q",), ("--json",)):
        told = here("submit", *words, "--name", "mine", *quiet)
        assert first in told.stdout
        assert told.stderr.count(said) == 1
        assert "--if-exists rerun" in told.stderr
    assert "keeps its name" not in here("submit", *words).stderr
    again = here("submit", *words, "--name", "mine", "--if-exists", "rerun")
    assert "keeps its name" not in again.stderr
    assert {line.split("\t")[1] for line in again.stdout.splitlines()} == {"mine"}


def test_a_dry_run_opens_the_store_once_and_makes_none(here, monkeypatch):
    opened = []

    def counted(*words, **options):
        opened.append(words)
        return open_store(*words, **options)

    monkeypatch.setattr("lsqctl.store.open_store", counted)
    told = here("submit", NAME, "--dry-run")
    assert "checked only: no workspace here" in told.stderr
    assert (opened, [*here.folder.iterdir()]) == ([], [])
    run = one_run(here, NAME)
    opened.clear()
    assert run in here("submit", NAME, "--dry-run").stdout
    assert len(opened) == 1


def test_a_run_goes_on_to_mean_what_it_was_when_its_file_has_changed_or_is_gone(here):
    path = here.folder / "own.yaml"
    path.write_text("model: {name: resnet8}\ndata: {name: digits}\ntrain: {epochs: 2, lr: 0.3}\n")
    run = one_run(here, "own.yaml")
    path.write_text(path.read_text().replace("0.3", "0.4"))
    assert planned(here, run)[0]["recipe"]["train"]["lr"] == 0.3
    path.unlink()
    assert planned(here, run, "--set", "train.epochs=4")[0]["recipe"]["train"]["lr"] == 0.3


def test_the_parent_of_a_run_is_found_again_and_not_doubled(here):
    child = one_run(here, "digits/resnet8-w4a4")
    here("submit", child, "--set", "train.epochs=4")
    names = [line.split("\t")[1] for line in here("runs", "ls").stdout.splitlines()]
    assert sorted(names) == [NAME, "digits/resnet8-w4a4", "digits/resnet8-w4a4-epochs4"]


def test_a_mistake_in_what_is_changed_names_the_run_and_nothing_is_queued(here):
    run = one_run(here, NAME)
    said = here("submit", run, "--set", "train.lrr=1", code=2).stderr
    assert "did you mean `train.lr`" in said
    here("submit", run, "--set", "data.crop=999", "--set", "train.epochs=0.5", code=2)
    assert len(here("runs", "ls").stdout.splitlines()) == 1


def test_a_recipe_comes_before_a_run_of_its_name_and_neither_is_an_error(here):
    one_run(here, NAME, "--set", "train.epochs=3")
    assert planned(here, NAME)[0]["recipe"]["train"]["epochs"] != 3
    assert "no bundled recipe" in here("submit", "digits/resnet8-fp23", code=3).stderr
    assert "@last" in here("submit", "@last~9", code=3).stderr


def test_without_a_workspace_at_last_is_no_run(here):
    assert "no workspace" in here("submit", "@last", code=3).stderr


def test_a_grid_makes_a_sweep_of_every_combination(here):
    runs = planned(here, NAME, "--grid", "train.lr=0.1,0.2", "--grid", "train.momentum=[0, 0.9]")
    found = [(r["recipe"]["train"]["lr"], r["recipe"]["train"]["momentum"]) for r in runs]
    assert found == [(0.1, 0), (0.1, 0.9), (0.2, 0), (0.2, 0.9)]
    assert len({run["name"] for run in runs}) == 4
    here("submit", NAME, "--grid", "train.lr=0.1,0.2")
    assert "2" in here("sweep", "status", NAME).stdout


def test_a_grid_of_bits_names_its_cells_as_a_sweep_in_a_file_would(here):
    names = [
        run["name"]
        for run in planned(here, "digits/resnet8-w4a4", "--grid", "quant.weight_bits=2,3")
        if run["name"] != NAME
    ]
    assert names == ["digits/resnet8-w4a4-w2a4", "digits/resnet8-w4a4-w3a4"]


def test_a_grid_of_a_run_varies_what_the_run_was(here):
    one_run(here, NAME, "--set", "train.epochs=3")
    runs = planned(here, "@last", "--grid", "seed=1,2")
    assert [(run["seed"], run["epochs"]) for run in runs] == [(1, 3), (2, 3)]


def test_a_grid_replaces_the_same_axis_of_a_file(here):
    (here.folder / "s.yaml").write_text(
        "model: {name: resnet8}\ndata: {name: digits}\n"
        "sweep: {grid: {train.lr: [0.1, 0.2, 0.3], seed: [0, 1]}}\n"
    )
    runs = planned(here, "s.yaml", "--grid", "train.lr=0.5")
    assert [(run["recipe"]["train"]["lr"], run["seed"]) for run in runs] == [(0.5, 0), (0.5, 1)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--grid", "train.lrr=1,2"], "did you mean `train.lr`"),
        (["--grid", "train.lr"], "write --grid train.lr=VALUE"),
        (["--grid", "train.lr=[]"], "has no value"),
        (["--grid", "train.lr=fast,slow"], "must be a number"),
        (["--grid", "train.lr=1,2", "--set", "train.lr=3"], "varied here and fixed by --set"),
        (["--grid", "seed=" + ",".join(map(str, range(1001)))], "at most 1,000"),
        (["--tag", "two words"], "cannot be a tag"),
    ],
)
def test_a_wrong_grid_or_tag_is_told_before_anything_is_queued(here, words, said):
    assert said in here("submit", NAME, *words, code=2).stderr
    assert "no workspace" in here("runs", "ls", code=3).stderr


def test_tags_are_given_to_the_runs_that_are_named_and_not_to_their_parents(here):
    here("submit", "digits/resnet8-w4a4", "--tag", "paper", "--tag", "try/1")
    assert "digits/resnet8-w4a4" in here("runs", "ls", "--tag", "paper").stdout
    assert len(here("runs", "ls", "--tag", "try/1").stdout.splitlines()) == 1
    here("submit", NAME, "--tag", "later")  # which is there already
    assert NAME in here("runs", "ls", "--tag", "later").stdout


def test_a_run_is_shown_as_the_recipe_that_it_was(here):
    run = one_run(here, NAME, "--set", "train.epochs=3")
    shown = json.loads(here("recipe", "show", run, "--json").stdout)
    assert shown["cells"][0]["recipe"]["train"]["epochs"] == 3
    assert shown["cells"][0]["sources"]["train.epochs"] == f"run {run}"
    (here.folder / "again.yaml").write_text(here("recipe", "show", "@last").stdout)
    with open_store(f"sqlite:///{here.folder}/.lsqctl/lsqctl.db") as store:
        stored = store.runs.detail(run).recipe
    assert planned(here, "again.yaml")[0]["recipe"] == stored


def test_python_submits_a_run_with_a_grid_and_tags(here):
    settings = load_settings(home=here.folder / ".lsqctl")
    (run,) = lsqctl.submit(NAME, settings=settings)
    runs = lsqctl.submit(run.id, grid={"train.lr": [0.1, 0.2]}, tags=["x"], settings=settings)
    assert [one.id for one in lsqctl.runs(tag="x", settings=settings)] == [
        one.id for one in reversed(runs)
    ]
