"""Laws of `runs rm --for-good|gc|tag|note` and `db backup`: nothing goes by mistake."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import pytest

from lsqctl.atomic_write import temporary_beside
from lsqctl.run import EndReason, RunState
from lsqctl.services.gc import find_garbage, remove_garbage
from lsqctl.services.removal import remove_tree
from lsqctl.settings import Settings
from lsqctl.store import Store, open_store
from tests.conftest import TINY, CommandLine
from tests.store.samples import checkpoint, identity, new, submit, take


def home(cli: CommandLine):
    return cli.folder / ".lsqctl"


def store_of(cli: CommandLine) -> Store:
    return open_store(f"sqlite:///{home(cli) / 'lsqctl.db'}", lease_seconds=1)


@pytest.fixture
def worked(cli: CommandLine) -> CommandLine:
    """One run that really trained and has two checkpoints."""
    cli.write("tiny.yaml", TINY.replace("epochs: 2", "epochs: 3"))
    cli("run", "tiny.yaml")
    return cli


def folders(cli: CommandLine) -> set[str]:
    return {path.name for path in home(cli).glob("runs/*/ckpt*")}


def test_gc_only_looks_until_it_is_told_to_and_keeps_what_a_result_names(worked):
    before = folders(worked)
    assert len(before) >= 2
    found = json.loads(worked("runs", "gc", "--json").stdout)
    assert "next: lsqctl runs gc --apply" in worked("runs", "gc").stderr
    assert folders(worked) == before
    assert found["bytes"] > 100_000
    assert "nothing to remove" in worked("runs", "gc", "--older-than", "1h", "--apply").stderr
    assert "nothing to remove" in worked("runs", "gc", "--keep-last", "9", "--apply").stderr
    worked("runs", "gc", "--apply")
    with store_of(worked) as store:
        run = store.runs.list()[0]
        kept = {one.directory.rpartition("/")[2] for one in store.checkpoints.list(run.id)}
        named = {one.checkpoint.rpartition("/")[2] for one in store.results.evaluations(run.id)}
    assert (
        folders(worked) == kept == before - {p["path"].rpartition("/")[2] for p in found["garbage"]}
    )
    assert named <= kept
    assert "nothing to remove" in worked("runs", "gc").stderr


def test_gc_takes_leftovers_and_folders_without_a_run_but_nothing_that_lives(cli):
    with store_of(cli) as store:
        store.workers.register(identity("w1"))
        running, failed = submit(store, new("running"), new("failed"))
        claim = take(store)
        store.queue.fail(take(store).lease, EndReason.OOM, "")
    runs = home(cli) / "runs"
    stay = [
        runs / running / f"ckpt.tmp.{claim.lease.fence}",
        runs / running / "ckpt-00000001",
        runs / running / "ckpt-00000002",
        runs / failed / "ckpt-00000005",  # a retry takes it up
        runs / "my-own-folder",
        runs / failed / "damaged-by-me",
    ]
    go = [
        runs / running / "ckpt.tmp.00ff",
        runs / failed / "ckpt.tmp.00ff",
        runs / failed / "ckpt-00000004",
        runs / failed / "damaged-ckpt-00000003",
        runs / "zzzzzzzz",
    ]
    for path in (*stay, *go):
        path.mkdir(parents=True)
        (path / "model.pt").write_text("x" * 1000)
    outside = cli.folder / "outside"
    outside.mkdir()
    (outside / "precious").write_text("!")
    (go[2] / "link").symlink_to(outside)
    (runs / "bbbbbbbb").symlink_to(outside)
    found = json.loads(cli("runs", "gc", "--apply", "--json").stdout)
    assert {one["path"] for one in found["garbage"]} == set(map(str, go))
    assert found["bytes"] >= 4000
    assert all(path.exists() for path in stay)
    assert not any(path.exists() for path in go)
    assert (outside / "precious").exists()


def test_gc_names_and_removes_what_killed_processes_left_half_written_a_day_ago(cli):
    with store_of(cli) as store:
        (run_id,) = submit(store, new("waiting"))
    data, runs = cli.folder / "data", home(cli) / "runs"
    folders = [home(cli), home(cli) / "cluster", runs, runs / run_id, data]
    folders.append(data / "teachers" / "abc")
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    left = [temporary_beside(folder / "file") for folder in folders]
    download, before_0_2 = temporary_beside(data / "cifar10"), data / ".fetch-123-ab_c1234"
    imported, at_work = runs / ".import-00ff", runs / ".import-11ff"
    fresh = temporary_beside(data / "fresh")
    for path in (*left, fresh):
        path.write_text("x" * 1000)
    for path in (download, before_0_2, imported, at_work):
        path.mkdir()
        (path / "part").write_text("x" * 1000)
    long_ago = (time.time() - 25 * 3600,) * 2
    for path in (*left, *(each for one in (download, before_0_2) for each in (one, one / "part"))):
        os.utime(path, long_ago)
    go = {*left, download, before_0_2, imported}
    environment = {"LSQCTL_DATA": str(data)}
    descriptor = os.open(at_work, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        found = json.loads(cli("runs", "gc", "--json", **environment).stdout)
        assert {one["path"] for one in found["garbage"]} == set(map(str, go))
        assert {one["kind"] for one in found["garbage"]} == {"half-written"}
        assert {one["run_id"] for one in found["garbage"]} == {run_id, ""}
        assert found["bytes"] == 1000 * len(go)
        assert all(path.exists() for path in go)
        cli("runs", "gc", "--apply", **environment)
    finally:
        os.close(descriptor)
    assert not any(path.exists() for path in go)
    assert fresh.exists()
    assert at_work.exists()


def test_gc_keeps_the_best_checkpoint_though_later_ones_follow(cli):
    with store_of(cli) as store:
        store.workers.register(identity("w1"))
        (run_id,) = submit(store, new("a"))
        claim = take(store)
        folder = home(cli) / "runs" / run_id
        for step in (1, 2, 3, 4):
            path = folder / f"ckpt-{step:08}"
            path.mkdir(parents=True)
            saved = replace(checkpoint(step, best=step == 2), directory=path)
            store.checkpoints.record(claim.lease, saved)
        store.queue.fail(claim.lease, EndReason.OOM, "")  # so that no result names one
    cli("runs", "gc", "--apply")
    assert folders(cli) == {"ckpt-00000002", "ckpt-00000004"}


def test_gc_that_sleeps_takes_no_checkpoint_that_a_later_attempt_has_written(tmp_path, monkeypatch):
    settings = Settings(tmp_path, f"sqlite:///{tmp_path}/lsqctl.db", tmp_path / "data")

    def later_attempt(path):
        monkeypatch.undo()
        store.runs.retry(run_id, from_scratch=True, delete_files=lambda _: None)
        old.mkdir()
        remove_tree(path)

    with open_store(settings.db_url) as store:
        store.workers.register(identity("w1"))
        (run_id,) = submit(store, new("a"))
        store.queue.fail(take(store).lease, EndReason.OOM, "")
        old, newest = (settings.run_dir(run_id) / f"ckpt-{step:08}" for step in (1, 2))
        for folder in (old, newest):
            folder.mkdir(parents=True)
        monkeypatch.setattr("lsqctl.services.gc.remove_tree", later_attempt)
        remove_garbage(store, find_garbage(store, settings).garbage)
    assert sorted(old.parent.iterdir()) == [old, newest]


def test_a_folder_that_two_processes_remove_at_once_goes_without_an_error(tmp_path, monkeypatch):
    folder, unlink = tmp_path / "folder", os.unlink

    def faster(*args, **options):
        monkeypatch.undo()
        shutil.rmtree(folder)
        unlink(*args, **options)

    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").touch()
    monkeypatch.setattr(os, "unlink", faster)
    remove_tree(folder)
    assert not folder.exists()


@pytest.mark.parametrize("replaced", [False, True])
def test_gc_keeps_what_a_retry_goes_on_from_and_not_what_was_never_recorded(tmp_path, replaced):
    """As after a kill between a checkpoint's rename and its row."""
    settings = Settings(tmp_path, f"sqlite:///{tmp_path}/lsqctl.db", tmp_path / "data")
    with open_store(settings.db_url) as store:
        store.workers.register(identity("w1"))
        (run_id,) = submit(store, new("a"))
        claim, folder = take(store), settings.run_dir(run_id)
        for step in (1, 2):
            saved = replace(checkpoint(step), directory=folder / f"ckpt-{step:08}")
            store.checkpoints.record(claim.lease, saved)
        store.queue.fail(claim.lease, EndReason.OOM, "")
        unrecorded = "ckpt-00000002.old" if replaced else "ckpt-00000003"
        for name in ("ckpt-00000001", "ckpt-00000002", unrecorded):
            (folder / name).mkdir(parents=True)
        remove_garbage(store, find_garbage(store, settings).garbage)
    kept = {"ckpt-00000002", "ckpt-00000002.old"} if replaced else {"ckpt-00000002"}
    assert {path.name for path in folder.iterdir()} == kept


def test_gc_with_another_workspaces_database_removes_no_run(worked):
    before = folders(worked)
    other = f"sqlite:///{worked.folder / 'other' / 'lsqctl.db'}"
    worked("--db", other, "db", "upgrade")
    assert "knows none of them" in worked("--db", other, "runs", "gc", "--apply").stderr
    assert folders(worked) == before


def test_rm_for_good_shows_then_asks_then_removes_rows_and_folder_and_follows_no_link(worked):
    run_id = worked("runs", "ls", "-q").stdout.strip()
    folder = home(worked) / "runs" / run_id
    (worked.folder / "precious").write_text("!")
    (folder / "link").symlink_to(worked.folder)
    assert "nothing was" in worked("runs", "rm", run_id, "--dry-run").stderr
    assert "--yes" in worked("runs", "rm", run_id, "--for-good", code=2).stderr
    assert folder.is_dir()
    data = json.loads(worked("runs", "rm", run_id, "--for-good", "--yes", "--json").stdout)
    assert data["removed"]
    assert not folder.exists()
    assert (worked.folder / "precious").exists()
    worked("runs", "show", run_id, code=3)


def test_a_running_run_keeps_rows_and_folder(cli):
    with store_of(cli) as store:
        store.workers.register(identity("w1"))
        (run_id,) = submit(store, new("a"))
        take(store)
        folder = home(cli) / "runs" / run_id
        folder.mkdir(parents=True)
        assert "runs cancel" in cli("runs", "rm", run_id, "--force", code=1).stderr
        assert folder.is_dir()
        assert store.runs.detail(run_id).run.state is RunState.RUNNING


def test_tags_and_notes_are_shown_and_found(cli):
    with store_of(cli) as store:
        a, _b = submit(store, new("a"), new("b"))
    cli("runs", "tag", "a", "b", "+paper", "+draft")
    cli("runs", "tag", "b", "-paper")
    cli("runs", "note", "a", "the one in the talk")
    assert cli("runs", "ls", "--tag", "paper", "-q").stdout.split() == [a]
    assert cli("runs", "ls", "--tag", "paper").stderr.endswith("1 queued of 2 runs\n")
    shown = cli("runs", "show", "a").stdout
    assert "draft paper" in shown
    assert "the one in the talk" in shown
    data = json.loads(cli("runs", "show", "a", "--json").stdout)
    assert (data["tags"], data["run"]["note"]) == (["draft", "paper"], "the one in the talk")
    listed = json.loads(cli("runs", "ls", "--json").stdout)["runs"]
    assert [one["tags"] for one in listed] == [["draft"], ["draft", "paper"]]
    assert "without a filter" in cli("runs", "ls", "--tag", "none").stderr
    cli("runs", "tag", "a", code=2)
    cli("runs", "tag", "a", "+a b", code=2)


def test_a_backup_made_while_others_write_is_one_moment_sound_and_private(cli):
    with store_of(cli) as store:
        store.workers.register(identity("w1"))
        submit(store, *(new("a", seed=seed) for seed in range(200)))
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(home(cli) / "lsqctl.db")],
        env=cli.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert writer.stdout.readline()
        made = [cli("db", "backup").stdout.strip()]
        made.append(cli("db", "backup", "mine.db").stdout.strip())
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.communicate()
    for path in (cli.folder / made[0], cli.folder / made[1]):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            (running,) = db.execute("SELECT count(*) FROM runs WHERE attempt = 1").fetchone()
            (claimed,) = db.execute("SELECT count(*) FROM events WHERE kind = 'claimed'").fetchone()
            assert running == claimed > 0
    assert [one.name for one in cli.folder.glob(".*.tmp*")] == []


WRITER = """
import sys
from lsqctl.store import open_store
store = open_store(f"sqlite:///{sys.argv[1]}")
while True:
    if (claim := store.queue.claim("w1")) is None:
        break
    print(claim.run.id, flush=True)
import time; time.sleep(600)
"""


def test_a_backup_is_restored_by_putting_it_in_place(cli):
    with store_of(cli) as store:
        store.workers.register(identity("w1"))
        submit(store, new("a"))
        store.checkpoints.record(take(store).lease, checkpoint(1))
    cli("db", "backup", "copy.db")
    cli("runs", "cancel", "@last")
    (home(cli) / "lsqctl.db").unlink()
    (cli.folder / "copy.db").rename(home(cli) / "lsqctl.db")
    cli("db", "check", code=None)
    assert json.loads(cli("runs", "ls", "--json").stdout)["runs"][0]["name"] == "a"


def test_a_backup_overwrites_nothing_and_never_itself(cli):
    cli("db", "upgrade")
    precious = cli.write("precious", "!")
    cli("db", "backup", "precious", code=2)
    assert precious.read_text() == "!"
    (cli.folder / "link.db").symlink_to(precious)
    cli("db", "backup", "link.db", "--force", code=2)
    cli("db", "backup", home(cli) / "lsqctl.db", "--force", code=2)
    cli("db", "backup", "precious", "--force")
    assert precious.read_bytes().startswith(b"SQLite format 3")
    cli("db", "backup", "/proc/x/y.db", code=4)
