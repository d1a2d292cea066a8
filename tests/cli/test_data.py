"""`data ls`: every dataset that a recipe may name, and whether it is there."""

from __future__ import annotations

import json
import os
import shutil
import time

import numpy as np

from lsqctl.datasets import DATASETS
from lsqctl.settings import sqlite_url
from lsqctl.store import open_store
from lsqctl.training.teacher_logits import TeacherLogits


def test_every_dataset_is_listed_and_it_says_which_are_here(cli):
    (cli.folder / "data" / "KMNIST" / "raw").mkdir(parents=True)
    environment = {"LSQCTL_DATA": "data"}
    rows = [line.split("\t") for line in cli("data", "ls", **environment).stdout.splitlines()]
    assert [row[0] for row in rows] == list(DATASETS)
    assert {row[0] for row in rows if row[-1] == "yes"} == {"digits", "kmnist"}
    listed = json.loads(cli("data", "ls", "--json", **environment).stdout)["datasets"]
    assert {row["name"] for row in listed if row["present"]} == {"digits", "kmnist"}
    assert all(row["info"]["classes"] == DATASETS[row["name"]].classes for row in listed)


def test_logits_of_teachers_are_listed_and_those_unused_for_a_month_are_garbage(here):
    data_dir = here.folder / ".lsqctl" / "data"
    data_dir.mkdir(parents=True)
    with open_store(sqlite_url(here.folder / ".lsqctl" / "lsqctl.db")):
        pass

    def zeros(chunks):
        return (np.zeros((len(indices), 4), np.float32) for indices in chunks)

    used, unused = (
        TeacherLogits(data_dir, {"network": name, "dataset": "digits"}, (10, 4)).load(
            0, zeros, lambda: None
        )
        for name in ("resnet8", "cifar_resnet20")
    )
    shutil.copytree(used.path, used.path.with_name("view-0001"))
    (used.path.with_name("view-0001") / "part-00").write_bytes(b"")
    long_ago = time.time() - 31 * 24 * 3600
    for part in unused.path.iterdir():
        os.utime(part, (long_ago, long_ago))
    rows = [line.split("\t") for line in here("data", "ls").stdout.splitlines()]
    assert {tuple(row[:4]) for row in rows[-2:]} == {
        (used.path.parent.name, "resnet8", "digits", "1 (+1 in part)"),
        (unused.path.parent.name, "cifar_resnet20", "digits", "1"),
    }
    listed = json.loads(here("data", "ls", "--json").stdout)["teacher_logits"]
    assert {row["about"]["network"] for row in listed} == {"resnet8", "cifar_resnet20"}
    (garbage,) = json.loads(here("runs", "gc", "--apply", "--json").stdout)["garbage"]
    assert (garbage["kind"], garbage["path"]) == ("teacher logits", str(unused.path.parent))
    assert used.path.exists()
    assert not unused.path.exists()


def test_a_folder_of_somebody_elses_beside_the_logits_of_teachers_is_no_garbage(here):
    theirs = here.folder / ".lsqctl" / "data" / "teachers" / "portraits"
    theirs.mkdir(parents=True)
    with open_store(sqlite_url(here.folder / ".lsqctl" / "lsqctl.db")):
        pass
    (theirs / "about.json").write_text("{}")
    (theirs / "1.jpg").write_bytes(b"!")
    long_ago = time.time() - 31 * 24 * 3600
    os.utime(theirs, (long_ago, long_ago))
    assert json.loads(here("data", "ls", "--json").stdout)["teacher_logits"] == []
    assert json.loads(here("runs", "gc", "--apply", "--json").stdout)["garbage"] == []
    assert (theirs / "1.jpg").exists()
