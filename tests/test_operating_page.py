"""docs/operating.md tells the truth: its commands run, and a backup of a server is restored."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from lsqctl.run import RunState
from lsqctl.settings import Settings
from lsqctl.store import open_store
from tests.cluster.conftest import ClusterLine, line  # noqa: F401 (a fixture)
from tests.conftest import FULL, TINY, wait_for
from tests.store.conftest import (  # noqa: F401 (fixtures)
    _server_programs,
    postgresql,
    postgresql_url,
)
from tests.store.samples import identity, new, submit, take
from tests.worker.long_run import at_work, final_hashes, submitted

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "operating.md").read_text("utf-8")


def commands(section: str) -> list[str]:
    """Return the commands below a heading, in order."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\$ (.+)$", text, re.MULTILINE)


@pytest.fixture
def workspace(line: ClusterLine) -> ClusterLine:  # noqa: F811
    """A workspace on PostgreSQL, whose commands need no Python of their own."""
    line.cold = FULL
    del line.environment["PYTHONPATH"]
    if "PYTHONPATH" in os.environ:
        line.environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    line.environment["PATH"] = f"{_server_programs()}{os.pathsep}{line.environment['PATH']}"
    return line


def call(workspace: ClusterLine, words: str, **variables: str) -> str:
    """Run a line of the page as a person would."""
    if words.startswith("lsqctl "):
        return workspace(*words.split()[1:], **variables).stdout
    environment = workspace.environment | variables
    done = subprocess.run(
        ["bash", "-c", words],
        cwd=workspace.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


@pytest.fixture
def restored(workspace: ClusterLine) -> Iterator[str]:
    """The URL of the database that the page restores into; it is gone afterwards."""
    import psycopg

    yield re.sub(r"@/\w+\?", "@/restored?", workspace.url)
    with psycopg.connect(libpq(workspace.url), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS restored WITH (FORCE)")


def libpq(url: str) -> str:
    return url.replace("postgresql+psycopg", "postgresql")


def back_up_and_restore(workspace: ClusterLine, restored: str) -> list[str]:
    """Run every command on backups; return what the last two say, of the restored copy."""
    urls = {"PGURL": libpq(workspace.url), "PGURL_RESTORED": libpq(restored)}
    words = commands("Backups")
    assert len(words) == 8
    for command in words[:-2]:
        call(workspace, command, **urls)
    return [call(workspace, command, LSQCTL_DB=restored) for command in words[-2:]]


def test_a_backup_of_a_server_is_restored_by_the_commands_of_the_page(workspace, restored):
    with open_store(workspace.url, lease_seconds=600) as store:
        store.workers.register(identity("w1"))
        submit(store, new("digits/a"), new("digits/b"))
        take(store)
    (workspace.home / "runs").mkdir(exist_ok=True)
    _, listed = back_up_and_restore(workspace, restored)
    assert listed.count("digits/") == 2
    with open_store(restored) as store:
        assert {run.state for run in store.runs.list()} == {RunState.RUNNING, RunState.QUEUED}


@pytest.mark.slow
def test_a_worker_holds_two_connections_and_a_restored_run_ends_as_the_undisturbed_one(
    workspace, restored
):
    import psycopg

    recipe = TINY.replace("epochs: 2", "epochs: 14").replace("batch_size: 256", "batch_size: 64")
    run_id = submitted(workspace, recipe)
    worker = workspace.start("worker", "--until-empty")
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    with workspace.store() as store, psycopg.connect(libpq(workspace.url)) as connection:
        wait_for(lambda: at_work(store, run_id), 120)
        ours = 2  # of the store and of this question
        assert connection.execute(count).fetchone() == (ours + 2,)
        worker.terminate()
        worker.communicate(timeout=60)
        assert store.runs.detail(run_id).run.state is RunState.QUEUED
    back_up_and_restore(workspace, restored)
    ends = []
    for url in (restored, workspace.url):
        workspace.environment["LSQCTL_DB"] = url
        workspace("worker", "--until-empty")
        with open_store(url) as store:
            assert store.runs.detail(run_id).run.state is RunState.SUCCEEDED
        ends.append(final_hashes(workspace, run_id)["model.pt"])
        call(workspace, "rm -rf .lsqctl/runs; cp -a runs.copy .lsqctl/runs")
    assert ends[0] == ends[1]


def test_the_example_of_imagenet_is_checked_command_by_command(workspace):
    data, image = workspace.folder / "data", workspace.folder / "image.png"
    Image.new("RGB", (8, 8)).save(image)
    for split in ("train", "val"):
        for number in range(1000):
            folder = data / "imagenet" / split / f"n{number:08}"
            folder.mkdir(parents=True)
            os.link(image, folder / "a.png")
    (profile,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    workspace.profile(profile)
    workspace.environment["LSQCTL_DATA"] = str(data)
    said = {words: call(workspace, words) for words in commands("ResNet-50 W4A4 on 8 GPUs")}
    with workspace.store() as store:
        assert sorted(run.seed for run in store.runs.list()) == list(range(8))
    script = said["lsqctl cluster script gpu"]
    for asked in ("--gres=gpu:1", "--cpus-per-task=8", "--mem=60G", "--time=1440", "USR1@300"):
        assert asked in script


def test_the_upgrade_of_the_page_runs(workspace):
    for words in commands("Upgrades"):
        call(workspace, words)


def test_each_worker_looks_for_dead_ones_the_less_often_the_more_runs_are_at_work():
    settings = Settings(Path(), "", Path(), lease_seconds=30)
    rows = [runs * runs / settings.reap_seconds(runs) for runs in (1, 30, 300, 1000)]
    assert rows == [1, 900, 9_000, 100_000], "that all workers read in a second"
