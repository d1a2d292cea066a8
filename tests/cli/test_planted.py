"""What another account has planted is not used: a workspace, its folders, a link, escapes."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from lsqctl.errors import StoreError
from lsqctl.run import RunState
from lsqctl.settings import make_compile_cache
from lsqctl.store import open_store
from tests.conftest import TINY

NOBODY = 65534
needs_root = pytest.mark.skipif(
    os.getuid() != 0, reason="NOT TESTED: files of another account (needs root: setpriv, chown)"
)


def as_nobody(*words: str | Path) -> None:
    """Run a command as the other account."""
    options = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    subprocess.run(["setpriv", *options, *map(str, words)], check=True, cwd="/")


@pytest.fixture
def shared(here, tmp_path_factory):
    """A folder that everyone may write to, as /tmp is, with the victim's own folder in it."""
    folder = tmp_path_factory.mktemp("shared")
    for parent in (folder, *folder.parents[:3]):  # pytest-xdist has one more
        parent.chmod(parent.stat().st_mode | 0o011)
    folder.chmod(0o1777)
    (folder / "work").mkdir()
    here.enter(folder / "work")
    return folder


@needs_root
@pytest.mark.parametrize("command", [["runs", "ls"], ["submit", "digits/resnet8-fp32"], ["doctor"]])
def test_a_workspace_that_another_account_planted_above_is_refused(here, shared, command):
    as_nobody("mkdir", "-m", "0755", shared / ".lsqctl")
    said = here(*command, code=4).stderr
    assert f"{shared}/.lsqctl belongs to another account (uid {NOBODY})" in said
    assert "--home" in said
    assert list((shared / ".lsqctl").iterdir()) == []


@needs_root
@pytest.mark.parametrize("name", ["lsqctl.db", "lsqctl.db-wal", "lsqctl.db-journal", "runs"])
def test_a_workspace_of_which_another_account_owns_a_part_is_used_only_when_named(here, name):
    here("submit", "digits/resnet8-fp32")
    part = here.folder / ".lsqctl" / name
    part.touch()
    os.chown(part, NOBODY, NOBODY)
    assert "belongs to another account" in here("runs", "ls", code=4).stderr
    here("--home", ".lsqctl", "runs", "ls")


@needs_root
def test_a_link_of_another_account_to_a_folder_of_mine_is_refused(here, shared):
    (shared / "work" / "mine").mkdir(mode=0o700)
    as_nobody("ln", "-s", shared / "work" / "mine", shared / ".lsqctl")
    assert "belongs to another account" in here("runs", "ls", code=4).stderr


@pytest.mark.parametrize(("mode", "who"), [(0o777, "everyone"), (0o770, "its group")])
@pytest.mark.parametrize("name", ["", "runs", "lsqctl.db"])
def test_a_workspace_that_others_may_write_to_is_refused_where_it_was_found(here, name, mode, who):
    here("submit", "digits/resnet8-fp32")
    part = here.folder / ".lsqctl" / name
    part.chmod(mode)
    said = here("runs", "ls", code=4).stderr
    assert f"is writable by {who}" in said
    assert "chmod go-w" in said


def test_a_folder_of_runs_made_beforehand_for_everyone_is_refused_even_in_a_named_workspace(here):
    (here.folder / "ws" / "runs").mkdir(parents=True, mode=0o700)
    (here.folder / "ws" / "runs").chmod(0o777)
    said = here("--home", "ws", "submit", "digits/resnet8-fp32", code=4).stderr
    assert "runs is writable by everyone" in said


def submitted(cli) -> tuple[str, Path]:
    (run_id,) = cli("submit", cli.write("tiny.yaml", TINY), "-q").stdout.split()
    return run_id, cli.folder / ".lsqctl" / "runs" / run_id


def test_a_log_that_is_a_link_is_neither_written_nor_read(cli):
    run_id, folder = submitted(cli)
    precious = cli.write("bashrc", "alias ls='ls -l'\n")
    folder.mkdir(mode=0o700)
    for attempt in range(1, 4):
        (folder / f"attempt-{attempt}.log").symlink_to(precious)
    cli("worker", "--until-empty")
    assert precious.read_text() == "alias ls='ls -l'\n"
    with open_store(f"sqlite:///{cli.folder}/.lsqctl/lsqctl.db") as store:
        run = store.runs.detail(run_id).run
    assert run.state is RunState.FAILED
    assert "is a link, which is not followed" in run.message
    assert "alias" not in cli("runs", "logs", run_id, code=1).stdout


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_run_folder_that_others_may_write_to_is_not_used(cli, mode):
    run_id, folder = submitted(cli)
    folder.mkdir()
    folder.chmod(mode)
    cli("worker", "--until-empty")
    assert list(folder.iterdir()) == []
    assert "is writable by" in cli("runs", "show", run_id).stdout


def test_a_log_moves_no_cursor_and_sets_no_title(here):
    here("submit", "digits/resnet8-fp32")
    (run_id,) = here("runs", "ls", "-q").stdout.split()
    folder = here.folder / ".lsqctl" / "runs" / run_id
    folder.mkdir(mode=0o700)
    (folder / "attempt-1.log").write_bytes(b"a\tb\r\n\x1b]0;title\x07\x1b[2J\xc2\x9b2J\rhidden\n")
    said = here("runs", "logs", run_id, "--attempt", "1").stdout
    assert said == "a\tb\n\\x1b]0;title\\x07\\x1b[2J\\x9b2J\\rhidden\n"


@needs_root
@pytest.mark.parametrize("planted", ["lsqctl", "lsqctl/compiled"])
def test_a_cache_of_compiled_code_that_another_account_made_is_not_loaded_from(
    shared, monkeypatch, planted
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    if planted == "lsqctl":
        as_nobody("mkdir", "-m", "0777", shared / planted)
    else:
        (shared / "lsqctl").mkdir(mode=0o700)
        (shared / planted).mkdir()
        os.chown(shared / planted, NOBODY, NOBODY)
    with pytest.raises(StoreError, match=f"{planted} belongs to another account"):
        make_compile_cache("label", default="/default")
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_the_cache_of_compiled_code_is_its_users_alone_and_one_for_everyone_is_refused(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/default")
    make_compile_cache("label", default="/default")
    folder = tmp_path / "cache" / "lsqctl" / "compiled" / "label"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    for private in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(StoreError, match="is writable by everyone"):
        make_compile_cache("label", default="/default")


def test_a_bug_report_is_readable_by_its_owner_alone_whatever_the_umask(here):
    before = os.umask(0o002)
    try:
        here("bugreport", "-o", "r.zip")
    finally:
        os.umask(before)
    assert stat.S_IMODE((here.folder / "r.zip").stat().st_mode) == 0o600
