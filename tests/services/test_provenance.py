"""Laws of provenance: what is recorded of git and of the code."""

from __future__ import annotations

import os
import subprocess

import pytest

import lsqctl
from lsqctl.bundled import code_sha256
from lsqctl.services.provenance import git_state, version_line
from tests.conftest import TINY


@pytest.fixture
def checkout(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "a.txt").write_text("one")
    git("add", "a.txt")
    git("commit", "-m", "first")
    return tmp_path


def test_a_folder_in_no_checkout_has_no_state(tmp_path):
    assert git_state(tmp_path) == {}


def test_a_clean_checkout_is_clean_and_names_its_commit(checkout):
    state = git_state(checkout)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    assert state["diff_sha256"] == ""


def test_a_change_is_seen_by_its_digest_alone(checkout):
    (checkout / "a.txt").write_text("token=canary")
    first = git_state(checkout)
    assert first["dirty"] is True
    assert len(first["diff_sha256"]) == 64
    assert "canary" not in str(first)
    (checkout / "a.txt").write_text("token=other")
    assert git_state(checkout)["diff_sha256"] != first["diff_sha256"]


def test_a_new_file_makes_it_dirty(checkout):
    (checkout / "new.txt").write_text("x")
    assert git_state(checkout)["dirty"] is True


@pytest.mark.parametrize(
    ("key", "dirty"), [("core.fsmonitor", True), ("core.hooksPath", True), ("filter.e.clean", None)]
)
def test_no_command_that_a_checkout_brings_with_it_is_run(checkout, key, dirty):
    """As one that was unpacked from an archive may; git would run it for a mere `diff`."""
    planted, ran = checkout / ".git" / "planted", checkout / ".git" / "ran"
    planted.mkdir()
    for path in (planted / "command", planted / "post-index-change"):
        path.write_text(f"#!/bin/sh\ntouch '{ran}'\ncat\n")
        path.chmod(0o755)
    value = planted if key == "core.hooksPath" else planted / "command"
    subprocess.run(["git", "config", key, str(value)], cwd=checkout, check=True)
    (checkout / ".git" / "info" / "attributes").write_text("*.txt filter=e\n")
    (checkout / "a.txt").write_text("two")
    state = git_state(checkout)
    assert not ran.exists()
    assert state.get("dirty") is dirty
    (checkout / "a.txt").write_text("one")  # as it was, but written later: the index is refreshed
    os.utime(checkout / "a.txt", (1, 1))
    subprocess.run(["git", "diff", "HEAD"], cwd=checkout, check=True, capture_output=True)
    subprocess.run(["git", "status"], cwd=checkout, check=True, capture_output=True)
    assert ran.exists()  # git alone does


def test_the_code_has_one_digest():
    assert len(code_sha256()) == 64
    assert code_sha256() == code_sha256()


def test_the_commit_of_a_submission_reaches_the_board(cli):
    """From git at submit, through the snapshot, to the row of the CSV."""
    import csv
    import io

    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *words], cwd=cli.folder, check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    cli.write("tiny.yaml", TINY.replace("epochs: 2", "epochs: 0"))
    cli("run", "tiny.yaml")
    rows = csv.DictReader(io.StringIO(cli("leaderboard", "--format", "csv").stdout))
    row = next(row for row in rows if row["model"] == "tiny")
    assert row["code_commit"] == git_state(cli.folder)["commit"]
    assert row["code_dirty"] == "true"


def test_a_checkout_with_filters_of_its_own_has_a_version_line_without_a_dirty_flag(monkeypatch):
    """As `git lfs install --local` leaves it."""
    from lsqctl.services import provenance

    monkeypatch.setattr(provenance, "git_state", lambda folder: {"commit": "a" * 40})
    assert version_line().startswith(f"lsqctl {lsqctl.__version__} (")


def test_where_git_does_not_answer_nothing_is_said_of_changes(checkout, monkeypatch):
    from lsqctl.services import provenance

    ask = provenance._git
    monkeypatch.setattr(
        provenance, "_git", lambda folder, *words: None if "diff" in words else ask(folder, *words)
    )
    assert git_state(checkout).keys() == {"commit"}
