"""`conformance`: the matrix for people, pipes and machines, and an exit code that means it."""

from __future__ import annotations

import json
from dataclasses import replace

from typer.testing import CliRunner

from lsqctl.cli.app import app
from lsqctl.quant import conformance
from tests.conftest import CommandLine


def test_the_matrix_is_printed_and_ours_passes_it_all(cli: CommandLine):
    done = cli("conformance")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    checks = [row for row in rows if len(row) == 6]
    assert len(checks) == len(conformance.CHECKS)
    assert {row[2] for row in checks} == {"ok"}
    assert ["torch", "grad of s up to s/2 outside", "W2, v/s 1.2: -0.2, expected 1 (+3)"] in rows
    assert "lsqctl 0.2.0 20 of 20" in done.stderr
    assert not (cli.folder / ".lsqctl").exists()


def test_a_machine_gets_versions_sources_and_every_difference():
    done = CliRunner().invoke(app, ["conformance", "--json"])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["conforms"], found["schema_version"]) == (0, True, 2)
    assert [one["name"] for one in found["implementations"]][:3] == [
        "lsqctl",
        "torch",
        "detach form",
    ]
    (row,) = [row for row in found["checks"] if row["key"] == "clip-first-grad-step"]
    assert (row["source"], len(row["answers"]["torch"]["details"])) == ("eq. 3", 4)


def test_it_fails_when_ours_does(monkeypatch):
    other = replace(conformance.torch_fake_quantize(), name="lsqctl")
    monkeypatch.setattr(conformance, "lsqctl_quantizer", lambda version: other)
    done = CliRunner().invoke(app, ["conformance"])
    assert done.exit_code == 1
