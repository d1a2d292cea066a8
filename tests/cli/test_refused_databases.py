"""A database that must not be used ends a command in one line and exit code 4; no secret shows."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.conftest import FULL, TINY, fewer
from tests.store.conftest import postgresql, postgresql_url  # noqa: F401 (fixtures)
from tests.worker.injected import heal, inject

COMMANDS = (["runs", "ls"], ["submit", "digits/resnet8-fp32"], ["worker", "--until-empty"])


def refusals(cli, *options):
    """Return what each command says when it refuses with code 4, in one line after the store's."""
    told = []
    for command in COMMANDS:
        done = cli(*command, *options, code=4)
        (line,) = [one for one in done.stderr.splitlines() if not one.startswith("store: ")]
        assert line.startswith("error: ")
        told.append(done.stdout + done.stderr)
    return told


def test_a_folder_that_everyone_may_write_to_is_refused(cli):
    cli("submit", "digits/resnet8-fp32")
    (cli.folder / ".lsqctl").chmod(0o777)
    for told in refusals(cli):
        assert "writable by everyone" in told
        assert "chmod go-w" in told


def test_a_database_of_a_newer_schema_is_refused_with_both_versions(cli):
    cli("submit", "digits/resnet8-fp32")
    with closing(sqlite3.connect(cli.folder / ".lsqctl" / "lsqctl.db")) as db, db:
        (known,) = db.execute("SELECT version_num FROM alembic_version").fetchone()
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    for told in refusals(cli):
        assert "9999" in told
        assert known in told


def test_a_database_on_a_network_file_system_is_refused_and_postgresql_named(cli):
    cli("submit", "digits/resnet8-fp32")
    mounts = cli.write("mounts", f"/dev/vda / ext4 rw 0 0\nserver:/x {cli.folder} nfs4 rw 0 0\n")
    inject(cli, store_engine=f"MOUNTS = Path({str(mounts)!r})")
    for told in refusals(cli):
        assert "nfs4" in told
        assert "postgresql+psycopg://" in told


@pytest.fixture
def with_password(postgresql_url):  # noqa: F811
    """A URL whose server asks the user `locked` for a password."""
    import psycopg

    url = make_url(postgresql_url)
    rules = Path(str(url.query["host"])) / "data" / "pg_hba.conf"
    before = rules.read_text()
    plain = postgresql_url.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(plain, autocommit=True) as db:
        db.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
        rules.write_text("local all locked scram-sha-256\n" + before)
        db.execute("SELECT pg_reload_conf()")
        yield url.set(username="locked", password="hunter2")
        rules.write_text(before)
        db.execute("SELECT pg_reload_conf()")
        db.execute("DROP ROLE locked")


def test_a_wrong_password_is_refused_and_never_printed(cli, with_password):
    shown = with_password.render_as_string(hide_password=False)
    for told in refusals(cli, "--db", shown):
        assert "password authentication failed" in told
        assert "hunter2" not in told
        assert "locked:***@" in told
    cli.environment["LSQCTL_DB"] = shown
    assert "hunter2" not in cli("doctor", code=None).stdout


@pytest.mark.parametrize(
    "environment",
    fewer([{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}, {"TERM": "dumb"}], 1),
    ids=" ".join,
)
def test_a_locale_without_the_letters_of_a_name_crashes_nothing(cli, environment):
    cli("submit", "digits/resnet8-lsq")
    assert "PYTHONPATH" not in environment
    commands = (["leaderboard"], ["runs", "ls"], ["recipe", "show", "digits/resnet8-lsq"])
    for command in fewer(commands, 1):
        cli(*command, **environment)


def test_a_kill_in_the_middle_of_an_upgrade_leaves_the_database_as_it_was(cli):
    """The revision runs, and its process is killed before the commit."""
    asset = Path(__file__).parent.parent / "assets" / "db" / "0001.db"
    home = cli.folder / ".lsqctl"
    home.mkdir(mode=0o700)
    (home / "lsqctl.db").write_bytes(asset.read_bytes())
    inject(
        cli,
        store_migrate="_run = run_revisions\n"
        "def run_revisions(db, scripts):\n"
        "    _run(db, scripts)\n"
        "    os.kill(os.getpid(), 9)\n",
    )
    cli("runs", "ls", code=-9)
    with closing(sqlite3.connect(home / "lsqctl.db")) as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert (home / "lsqctl.db.schema-0001.bak").exists()
    heal(cli)
    assert "released/parent" in cli("runs", "ls").stdout
    assert os.listdir(home)


@pytest.mark.parametrize("name", ["a?b", "a%41", "a#b c&d=e", "a?mode=ro", "ä;'\""])
def test_a_workspace_may_be_called_anything(here, tmp_path, name):
    (tmp_path / name).mkdir()
    here.enter(tmp_path / name)
    here("submit", "digits/resnet8-fp32")
    assert here("runs", "ls", "-q").stdout
    assert (tmp_path / name / ".lsqctl" / "lsqctl.db").is_file()
    assert os.listdir(tmp_path) == [name]
    here("db", "backup", "copy.db")
    assert (tmp_path / name / "copy.db").is_file()


@pytest.mark.parametrize("closed", fewer(["<&- >&- 2>&-", ">&-", "2>&-", ">&- 2>&-"], 2))
def test_a_closed_stream_leads_nowhere_and_never_into_the_database(cli, closed):
    cli("submit", "digits/resnet8-fp32")
    others = ["runs ls", "leaderboard", "submit digits/resnet8-fp32"]
    for command in [*(others if FULL else []), "runs cancel @last"]:
        line = f"exec {sys.executable} -m lsqctl {command} {closed}"
        done = subprocess.run(
            ["sh", "-c", line], cwd=cli.folder, capture_output=True, text=True, check=False
        )
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), command
    assert "sound" in cli("db", "check").stdout + cli("db", "check").stderr
    assert cli("runs", "ls").stdout.split("\t")[3] == "cancelled"


def test_a_home_folder_of_nobody_is_refused_in_one_line(cli):
    for name in ("LSQCTL_HOME", "LSQCTL_DATA"):
        told = cli("runs", "ls", code=2, **{name: "~nobody-of-this-name/x"}).stderr
        assert told == "error: ~nobody-of-this-name/x: no user has that home folder\n"
    cli.write("r.yaml", TINY.replace("{name: resnet8}", "{name: resnet8, weights: ~nosuch/x.pth}"))
    assert "~nosuch/x.pth" in cli("submit", "r.yaml", code=None).stderr


@pytest.mark.slow
def test_a_postgresql_without_an_encoding_works_and_keeps_every_letter(cli, postgresql):  # noqa: F811
    import psycopg

    server = (postgresql % "postgres").replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE plain ENCODING 'SQL_ASCII' TEMPLATE template0")
    cli("submit", "digits/resnet8-fp32", "--db", postgresql % "plain")
    cli("runs", "note", "@last", "naïve Δ", "--db", postgresql % "plain")
    assert "naïve Δ" in cli("runs", "show", "@last", "--db", postgresql % "plain").stdout


def test_another_system_is_refused_in_one_line(tmp_path):
    program = "import os, lsqctl.cli.app as app; os.name = 'nt'; app.main()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "Linux" in done.stderr
