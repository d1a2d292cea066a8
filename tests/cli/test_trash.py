"""Laws of `runs rm|trash|restore`: what goes can come back, and for good is for good."""

from __future__ import annotations

import json

import pytest

from lsqctl.store import open_store
from tests.inside import Here
from tests.made_up import fill
from tests.store.samples import identity, new, submit, take


@pytest.fixture
def made(here, tmp_path) -> Here:
    fill(tmp_path)
    here.enter(tmp_path)
    return here


def board(made: Here) -> str:
    return made("leaderboard", "--published", "none", "--format", "csv").stdout


def test_a_removed_run_leaves_the_board_and_comes_back_to_it_as_it_was(made):
    before = board(made)
    ids = made("runs", "ls", "-q").stdout.split()
    told = made("runs", "rm", *ids[:2]).stderr
    assert f"2 runs, 0 B, removed to the trash; back with: lsqctl runs restore {ids[0]}" in told
    assert board(made) != before
    assert set(made("runs", "ls", "-q").stdout.split()) == set(ids[2:])
    listed = made("runs", "trash").stdout.splitlines()
    assert {row.split("\t")[0] for row in listed} == set(ids[:2])
    assert "2 runs restored" in made("runs", "restore", *ids[:2]).stderr
    assert board(made) == before
    assert "the trash is empty" in made("runs", "trash").stderr


def test_a_dry_run_moves_nothing(made):
    before = board(made)
    run_id = made("runs", "ls", "-q").stdout.split()[0]
    assert "would be removed; nothing was" in made("runs", "rm", run_id, "--dry-run").stderr
    assert board(made) == before
    assert made("runs", "trash").stdout == ""


@pytest.mark.parametrize("options", [[], ["--for-good", "--yes"]], ids=["trash", "for good"])
def test_a_dry_run_refuses_what_the_removal_refuses_in_the_same_words(here, tmp_path, options):
    with open_store(f"sqlite:///{tmp_path}/.lsqctl/lsqctl.db") as store:
        store.workers.register(identity("w1"))
        ids = submit(store, new("parent"), new("child", parents=["parent"]), new("free"))
        take(store)
        here.enter(tmp_path)
        for run_id in ids[:1]:
            refused = here("runs", "rm", run_id, *options, code=1).stderr
            assert here("runs", "rm", run_id, *options, "--dry-run", code=1).stderr == refused
        here("runs", "rm", ids[2], *options, "--dry-run")
        assert len(store.runs.list()) == 3


def test_for_good_asks_and_leaves_nothing_to_restore(made):
    run_id = made("runs", "ls", "-q").stdout.split()[0]
    assert "--yes" in made("runs", "rm", run_id, "--for-good", code=2).stderr
    found = json.loads(made("runs", "rm", run_id, "--for-good", "--yes", "--json").stdout)
    assert found["for_good"]
    assert found["removed"]
    told = made("runs", "restore", run_id, code=3).stderr
    assert f"no run in the trash is called `{run_id}`" in told


def test_emptying_the_trash_asks_and_takes_only_what_is_old_enough(made):
    ids = made("runs", "ls", "-q").stdout.split()[:2]
    made("runs", "rm", *ids)
    assert "--yes" in made("runs", "trash", "--empty", code=2).stderr
    told = made("runs", "trash", "--empty", "--older-than", "1h", "--yes").stderr
    assert "nothing has been there for so long" in told
    found = json.loads(made("runs", "trash", "--json").stdout)
    assert {one["id"] for one in found["runs"]} == set(ids)
    assert "2 runs removed for good" in made("runs", "trash", "--empty", "--yes").stderr
    made("runs", "restore", ids[0], code=3)
    assert not list((made.folder / ".lsqctl").glob("trash/*"))
