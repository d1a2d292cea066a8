"""`data ls`: every dataset that a recipe may name, and whether it is there."""

from __future__ import annotations

import json

from lsqctl.datasets import DATASETS


def test_every_dataset_is_listed_and_it_says_which_are_here(cli):
    (cli.folder / "data" / "KMNIST" / "raw").mkdir(parents=True)
    environment = {"LSQCTL_DATA": "data"}
    rows = [line.split("\t") for line in cli("data", "ls", **environment).stdout.splitlines()]
    assert [row[0] for row in rows] == list(DATASETS)
    assert {row[0] for row in rows if row[-1] == "yes"} == {"digits", "kmnist"}
    listed = json.loads(cli("data", "ls", "--json", **environment).stdout)["datasets"]
    assert {row["name"] for row in listed if row["present"]} == {"digits", "kmnist"}
    assert all(row["info"]["classes"] == DATASETS[row["name"]].classes for row in listed)
