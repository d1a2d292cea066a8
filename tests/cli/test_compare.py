"""`compare` on real runs: by id, by name over seeds, by sweep, and what it refuses."""

from __future__ import annotations

import json

import pytest

from tests.conftest import TINY, CommandLine

LOW = TINY.replace("epochs: 2", "epochs: 1").replace("lr: 0.1", "lr: 0.002")


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """Two recipes over two seeds, one of them far better, and a run that is only queued."""
    line = CommandLine(tmp_path_factory.mktemp("compared"))
    line.write("good.yaml", TINY)
    line.write("bad.yaml", LOW)
    line("submit", "good.yaml", "--seed", "0", "--seed", "1")
    line("submit", "bad.yaml", "--seed", "0", "--seed", "1")
    line("submit", "bad.yaml", "--name", "both", "--grid", "train.lr=0.1,0.002")
    line("worker", "--until-empty", "--slots", "2")
    line("submit", "good.yaml", "--seed", "7")
    return line


def ids(line, name):
    return line("runs", "ls", "-q", "--name", name, "--state", "succeeded").stdout.split()


def test_two_recipes_are_compared_over_their_seeds(worked):
    done = worked("compare", "good", "bad")
    answer, *rows = done.stdout.splitlines()
    assert "good or bad is better: +" in answer
    assert "95 % interval" in answer
    assert answer.partition(", by ")[2].startswith("a paired t-test over 2 seeds, p = 0.")
    assert [row.split("\t")[1] for row in rows] == ["0", "1"]
    assert "McNemar's test over 2 runs a side on the same 540 images: +" in done.stderr
    assert "three seeds or more" in done.stderr
    data = json.loads(worked("compare", "bad", "good", "--json").stdout)
    assert (data["schema_version"], data["verdict"]) == (2, "undecided")
    assert (data["first"]["n"], data["n_images"]) == (2, 540)
    assert data["low"] <= data["difference"] <= data["high"]
    assert data["tests"][0]["p"] < 1e-6


def test_two_runs_are_compared_by_the_images_that_only_one_gets_right(worked):
    good, bad = ids(worked, "good")[0], ids(worked, "bad")[0]
    data = json.loads(worked("compare", good[:6], bad, "--json").stdout)
    (row,) = data["rows"]
    shown = json.loads(worked("runs", "show", good, "--json").stdout)
    assert row["first_top1"] == pytest.approx(
        next(100 * e["n_correct"] / e["n_total"] for e in shown["results"] if e["headline"])
    )
    images = row["only_first"] - row["only_second"]
    assert data["difference"] == pytest.approx(100 * images / 540)
    assert data["verdict"] == "better"
    assert "McNemar's exact test on the same 540 images" in data["answer"]


def test_each_cell_of_a_sweep_is_compared_with_one_recipe(worked):
    done = worked("compare", "both", "good")
    answer, *rows = (line.split("\t") for line in done.stdout.splitlines())
    assert answer == ["both against good, cell by cell: 2 worse"]
    assert [(row[0], row[3], row[-1]) for row in rows] == [
        ("bad", "good", "worse"),  # the cell that had run already, by its own name
        ("both-lr0.1", "good", "worse"),
    ]
    data = json.loads(worked("compare", "both", "good", "--json").stdout)
    assert [one["verdict"] for one in data["comparisons"]] == ["worse", "worse"]


def test_a_run_is_not_better_than_itself(worked):
    (run, *_) = ids(worked, "good")
    answer = worked("compare", run, run).stdout.splitlines()[0]
    assert answer.startswith(f"it cannot be told whether {run} or {run} is better: 0.00 points")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("good", "baad"), 3, "no run is `baad`; did you mean `bad`?"),
        (("good", "@last"), 3, "is queued: it has no result to compare"),
        (("good",), 2, "Missing argument"),
    ],
)
def test_what_cannot_be_compared_ends_in_one_line(worked, words, code, message):
    done = worked("compare", *words, code=code)
    assert message in done.stderr
