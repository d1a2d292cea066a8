"""Runs that a real Slurm places: pilots come, work and go; the numbers stay the same."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lsqctl.errors import StoreError
from lsqctl.run import RunState
from lsqctl.store import open_store
from tests.cluster.conftest import ROOT
from tests.cluster.private_slurm import free_ports
from tests.conftest import TINY, wait_for
from tests.store.conftest import _server_programs

PAGE = (ROOT / "docs" / "cluster.md").read_text("utf-8")
ONE = TINY.replace("epochs: 2", "epochs: 1")


@pytest.fixture
def own_server() -> Iterator[dict[str, str]]:
    """Where the page's server may lie, and its port; stopped and removed afterwards."""
    programs = _server_programs()
    if programs is None:
        pytest.skip("NOT TESTED ON POSTGRESQL: no initdb here (Debian: apt install postgresql)")
    home = Path(tempfile.mkdtemp(prefix="lsqctl-own-"))
    if os.getuid() == 0:
        shutil.chown(home, "postgres")
    environment = os.environ | {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"}
    yield environment
    as_server(environment, "pg_ctl -D ~/lsqctl-pg -m immediate stop")
    shutil.rmtree(home)


def as_server(environment: dict[str, str], words: str) -> str:
    """Run a line of the page as the user whose server it is; root may not have one."""
    user = {"user": "postgres"} if os.getuid() == 0 else {}
    with tempfile.TemporaryFile("w+") as said:  # a server that stays would keep a pipe open
        done = subprocess.run(
            ["bash", "-c", words],
            **user,
            env=environment,
            cwd=environment["HOME"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            check=False,
        )
        said.seek(0)
        text = said.read()
    assert done.returncode == 0, (words, text)
    return text


def test_a_server_of_ones_own_is_five_commands_and_wants_its_password(own_server):
    (port,) = free_ports(1)
    words = re.findall(r"^\$ ((?!lsqctl ).+)$", PAGE, re.MULTILINE)
    *makes, exports = [line.replace("5433", str(port)) for line in words]
    assert len(makes) == 5
    for line in makes:
        as_server(own_server, line)
    url = as_server(own_server, f'{exports}; printf %s "$LSQCTL_DB"').replace("login1", "localhost")
    with open_store(url) as store:
        assert store.runs.list() == []
    with pytest.raises(StoreError, match="password authentication failed"):
        open_store(re.sub(r"lsqctl:\w+@", "lsqctl:wrong@", url))


@pytest.mark.slow  # .ci/run runs it
def test_the_page_leads_from_a_login_node_to_a_board(on_slurm):
    """Each command of docs/cluster.md, in order: a pilot comes, works, and ends by itself."""
    (profile,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    on_slurm.profile(profile)
    commands = re.findall(r"^\$ lsqctl (.+)$", PAGE, re.MULTILINE)
    done = {words: on_slurm(*words.split()) for words in commands}
    with on_slurm.store() as store:
        (run,) = store.runs.list()
    assert run.state is RunState.SUCCEEDED, (done, on_slurm.logs())
    assert run.worker.startswith("slurm-")
    assert "sent pilot" in done["cluster work cpu --until-empty --poll 1s"].stderr
    assert "digits/resnet8-fp32" in done["leaderboard"].stdout


@pytest.mark.slow
def test_a_pilot_that_never_starts_is_shown_with_the_reason_of_slurm(on_slurm):
    on_slurm.profile('[cpu]\ngres = ""\npartition = "closed"\nmost = 1\n')
    on_slurm.write("tiny.yaml", ONE + "sweep:\n  grid: {train.lr: [0.1]}\n")
    on_slurm("submit", "tiny.yaml")
    dispatcher = on_slurm.start("cluster", "work", "cpu", "--poll", "1s")
    wait_for(lambda: "PartitionDown" in on_slurm("watch", "--once").stdout)
    for words in (["cluster", "status", "cpu"], ["watch", "--json"]):
        assert "PartitionDown" in on_slurm(*words).stdout
    assert "PartitionDown" in on_slurm("sweep", "status").stderr
    dispatcher.terminate()


@pytest.mark.slow
def test_what_a_profile_cannot_have_is_said_by_check_and_nothing_is_queued(on_slurm, slurm):
    on_slurm("submit", "digits/resnet8-fp32")
    on_slurm.profile('[cpu]\ngres = ""\n[gpu]\n[none]\npartition = "nope"\n')
    found = on_slurm("cluster", "check", "cpu").stdout
    assert "KillWait 30 sec" in found
    assert "GraceTime 5 s" in found
    assert "to start at" in found
    refused = on_slurm("cluster", "check", "gpu", "--gpus", "9", code=1).stdout
    assert "Requested node configuration is not available" in refused
    examined = on_slurm("doctor", code=1).stdout
    assert "invalid partition specified: nope" in examined
    assert "KillWait 30 sec" in examined
    assert not (on_slurm.home / "cluster").exists(), "check and doctor write nothing"
    assert slurm.call("squeue", "-h") == ""


def test_a_refused_pilot_is_said_in_one_line_and_not_sent_again_at_once(on_slurm):
    on_slurm.profile('[cpu]\ngres = ""\npartition = "nope"\n')
    on_slurm("submit", "digits/resnet8-fp32")
    dispatcher = on_slurm.start("cluster", "work", "cpu", "--poll", "1s")
    time.sleep(6)
    dispatcher.terminate()
    said = dispatcher.communicate()[0]
    assert said.count("a pilot with 1 GPU was refused: sbatch: invalid partition") == 1


@pytest.mark.slow
def test_no_script_holds_the_url_and_a_pilot_of_another_workspace_or_version_is_refused(line):
    line.environment["LSQCTL_DB"] = line.url.replace("lsqctl@", "lsqctl:hush@")
    script = line("cluster", "script", "cpu").stdout
    assert "hush" not in script
    url_file = line.home / "cluster" / "database-url"
    assert "hush" in url_file.read_text()
    assert url_file.stat().st_mode & 0o777 == 0o600
    (words,) = re.findall(r"lsqctl (cluster join .*?) \|\|", script)
    line("db", "upgrade")
    line(*words.split())
    wrong = line(*words.replace("--token ", "--token 0").split(), code=3).stderr
    assert "is another workspace's" in wrong
    other = line(*re.sub(r"--expect \S+", "--expect 0.0.1/0001/x", words).split(), code=2).stderr
    assert "the dispatcher 0.0.1/0001/x: install the same; no run was claimed" in other
    elsewhere = line(*words.split(), code=3, LSQCTL_HOME=str(line.folder / "elsewhere")).stderr
    assert "this node does not share the workspace" in elsewhere
    two = {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2"}
    assert "a pilot has one node" in line(*words.split(), code=2, **two).stderr


def test_sqlite_is_refused_with_a_sentence_that_says_how_to_get_a_server(line):
    del line.environment["LSQCTL_DB"]
    said = line("cluster", "work", "cpu", code=2).stderr
    assert "pilots on other machines need PostgreSQL" in said
    assert "docs/cluster.md" in said
    assert not (line.home / "cluster").exists()
