"""A user on every submission: recorded, shown, filtered by, and `--mine`."""

from __future__ import annotations

import json
from zipfile import ZipFile

import pytest

import lsqctl
from lsqctl.settings import current_user

NAME = "digits/resnet8-fp32"


@pytest.fixture
def lab(here):
    """Two users' runs in one workspace, each queued and each on the board."""
    for user, seed in (("ana", 0), ("bob", 1)):
        here.monkeypatch.setenv("LSQCTL_USER", user)
        lsqctl.submit(NAME, seeds=[seed])
        with lsqctl.record(f"nets/of-{user}", dataset="digits") as run:
            run.finish(n_correct=500, n_total=540)
    return here


def listed(lab, *words):
    runs = json.loads(lab("runs", "ls", *words, "--json").stdout)["runs"]
    return {(run["name"], run["user"]) for run in runs}


def models(lab, *words):
    told = lab("leaderboard", *words, "--json").stdout
    return [row["model"] for table in json.loads(told)["tables"] for row in table["rows"]]


def test_each_run_has_its_user_and_lists_show_several(lab):
    assert listed(lab) == {
        (NAME, "ana"), (NAME, "bob"), ("nets/of-ana", "ana"), ("nets/of-bob", "bob"),
    }  # fmt: skip
    assert lab("runs", "ls").stdout.count("\tana") == 2
    assert "user\tana" in lab("runs", "show", "nets/of-ana").stdout
    assert "\tana" not in lab("runs", "ls", "--where", "user = 'ana'").stdout  # all are hers


def test_mine_and_a_filter_choose_by_user(lab):
    assert listed(lab, "--mine") == {(NAME, "bob"), ("nets/of-bob", "bob")}
    mine = listed(lab, "--mine", "--where", "seed = 1 or origin = 'recorded'")
    assert mine == {(NAME, "bob"), ("nets/of-bob", "bob")}
    assert listed(lab, "--where", "user in ('ana')") == {(NAME, "ana"), ("nets/of-ana", "ana")}
    assert models(lab, "--mine") == ["nets/of-bob"]
    assert models(lab, "--where", "user = 'ana' and top1_mean > 1") == ["nets/of-ana"]
    lab("export", "mine.csv", "--mine")
    assert "nets/of-ana" not in (lab.folder / "mine.csv").read_text()


def test_without_the_variable_it_is_the_login_name_and_never_an_error(monkeypatch):
    monkeypatch.delenv("LSQCTL_USER", raising=False)
    monkeypatch.setattr("getpass.getuser", lambda: "login")
    assert current_user() == "login"

    def nobody():
        raise OSError("No username set in the environment")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert current_user() == ""


def test_a_bug_report_names_no_user(lab):
    lab.monkeypatch.setenv("LSQCTL_USER", "anabel-smith")
    lsqctl.submit(NAME, seeds=[5])
    lab("bugreport", "-o", "r.zip", "--run", "@last")
    with ZipFile(lab.folder / "r.zip") as file:
        texts = [file.read(name).decode() for name in file.namelist()]
    assert any('"user": "<user>"' in text for text in texts)
    assert not any("anabel" in text for text in texts)
