"""A database that is upgraded, replaced, emptied or damaged ends its worker, in order."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from lsqctl.errors import OlderSchema, UnusableDatabase
from lsqctl.run import EndReason, RunState
from lsqctl.store import open_store
from lsqctl.store.file_checks import list_backups
from tests.conftest import TINY, wait_for
from tests.store.conftest import postgresql  # noqa: F401 (a fixture)
from tests.store.samples import identity, new, submit, take
from tests.worker.long_run import ENDLESS, at_work, store_of, submitted

ENDED = 4


def database_of(cli):
    return cli.folder / ".lsqctl" / "lsqctl.db"


@pytest.fixture
def at_step(cli):
    """A worker whose run has done some steps, and the run's id."""
    run_id = submitted(cli, ENDLESS)
    worker = cli.start("worker", "--until-empty", "--slots", "2")
    with store_of(cli) as store:
        wait_for(lambda: at_work(store, run_id, step=3), 150)
    return worker, run_id


def newer(path, revision="9999"):
    """Let the database have the schema of a later version, which adds a column."""
    with closing(sqlite3.connect(path, timeout=30)) as db, db:
        db.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        db.execute("ALTER TABLE runs ADD COLUMN invented TEXT")


def states(path, run_id):
    """Return the run's state and its attempts' reasons, whatever the schema is called."""
    with closing(sqlite3.connect(path, timeout=30)) as db:
        (state,) = db.execute("SELECT state FROM runs WHERE id = ?", (run_id,)).fetchone()
        rows = db.execute("SELECT reason FROM attempts WHERE run_id = ?", (run_id,)).fetchall()
    return state, [reason for (reason,) in rows]


def test_a_worker_under_whom_the_schema_is_upgraded_gives_its_runs_back_and_ends(cli, at_step):
    worker, run_id = at_step
    newer(database_of(cli))
    words, _ = worker.communicate(timeout=170)
    assert worker.returncode == ENDED
    assert "has schema 9999 by now" in words
    assert states(database_of(cli), run_id) == (RunState.QUEUED, [EndReason.PREEMPTED])


def test_a_trainer_that_meets_a_newer_schema_spends_no_attempt_and_ends_its_worker(cli):
    """The supervisor does not look meanwhile: what the trainer says is enough."""
    from tests.worker.injected import inject

    inject(
        cli,
        worker_supervisor="_DATABASE_CHECK_SECONDS = 1000",
        worker_execute="import sqlite3\n"
        "def failpoint(name, _real=failpoint):\n"
        "    if name == 'child.started':\n"
        f"        with sqlite3.connect({str(database_of(cli))!r}, timeout=30) as db:\n"
        "            db.execute(\"UPDATE alembic_version SET version_num = '9999'\")\n"
        "    _real(name)\n",
    )
    run_id = submitted(cli, TINY)
    worker = cli("worker", "--until-empty", "--slots", "2", code=ENDED)
    assert "9999" in worker.stderr
    assert states(database_of(cli), run_id) == (RunState.QUEUED, [EndReason.PREEMPTED])


def test_a_database_that_is_replaced_under_a_worker_ends_it(cli, at_step):
    worker, run_id = at_step
    path = database_of(cli)
    copy = path.with_name("copy.db")
    cli("db", "backup", copy)
    os.replace(copy, path)
    words, _ = worker.communicate(timeout=170)
    assert worker.returncode == ENDED
    assert "was replaced by another file" in words
    assert "readonly" not in words
    assert states(path, run_id) == (RunState.QUEUED, [EndReason.PREEMPTED])


def test_a_run_that_completed_into_the_file_that_has_gone_is_given_back_in_the_new_one(cli):
    from tests.worker.injected import heal, inject

    copy, path = cli.folder / "copy.db", database_of(cli)
    inject(
        cli,
        worker_supervisor="_DATABASE_CHECK_SECONDS = 1000",
        worker_execute="import os, sqlite3\n"
        "def _train_and_record(*given, train=_train_and_record):\n"
        f"    with sqlite3.connect({str(path)!r}) as db, sqlite3.connect({str(copy)!r}) as copy:\n"
        "        db.backup(copy)\n"
        "    ended = train(*given)\n"
        f"    os.replace({str(copy)!r}, {str(path)!r})\n"
        "    return ended\n",
    )
    run_id = submitted(cli, TINY)
    assert "was replaced" in cli("worker", "--until-empty", "--slots", "2", code=ENDED).stderr
    assert states(path, run_id) == (RunState.QUEUED, [EndReason.PREEMPTED])
    heal(cli)
    cli("worker", "--until-empty", "--slots", "2")
    assert states(path, run_id)[0] == RunState.SUCCEEDED


def on_server(postgresql, statement):  # noqa: F811
    """Do something to the server's databases."""
    import psycopg

    server = (postgresql % "postgres").replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(statement)


@pytest.mark.slow
def test_a_worker_whose_postgresql_database_is_dropped_ends(cli, postgresql):  # noqa: F811
    on_server(postgresql, "CREATE DATABASE dropped")
    cli.environment["LSQCTL_DB"] = postgresql % "dropped"
    run_id = submitted(cli, ENDLESS)
    worker = cli.start("worker", "--slots", "2")
    with open_store(postgresql % "dropped", lease_seconds=1) as store:
        wait_for(lambda: at_work(store, run_id, step=3), 150)
        on_server(postgresql, "DROP DATABASE dropped WITH (FORCE)")
        words, _ = worker.communicate(timeout=170)
        assert worker.returncode == ENDED
        assert 'database "dropped" does not exist' in words
        for ask in (store.runs.list, store.ensure_usable):
            with pytest.raises(UnusableDatabase, match="pg_dump"):
                ask()


def test_a_database_that_is_emptied_or_cut_short_ends_its_worker_which_names_the_backups(
    cli, at_step
):
    worker, _ = at_step
    cli("db", "backup")
    (backup,) = (cli.folder / ".lsqctl" / "backups").iterdir()
    with database_of(cli).open("r+b") as file:
        file.truncate(0)
    words, _ = worker.communicate(timeout=170)
    assert worker.returncode == ENDED
    assert str(backup) in words
    for command in (["runs", "ls"], ["db", "check"], ["worker", "--until-empty"]):
        said = cli(*command, code=ENDED).stderr
        assert "is empty" in said
        assert str(backup) in said
    database_of(cli).unlink()
    assert "is gone" in cli("submit", "digits/resnet8-fp32", code=ENDED).stderr
    shutil.copy(backup, database_of(cli))
    cli("runs", "ls")


@pytest.mark.parametrize(
    "command", [["wait"], ["watch", "--interval", "0.5"], ["runs", "logs", "--follow"]]
)
def test_what_goes_on_reading_notices_that_its_database_was_replaced(cli, command):
    """SQLite alone would read the file that was moved away for ever."""
    run_id = submitted(cli, TINY)
    reader = cli.start(*command, *([] if command[0] == "watch" else [run_id]))
    assert reader.stdout.readline().startswith("store: ")
    path = database_of(cli)
    cli("db", "backup", path.with_name("copy.db"))
    os.replace(path.with_name("copy.db"), path)
    words, _ = reader.communicate(timeout=170)
    assert reader.returncode == ENDED, words
    assert "was replaced by another file" in words


def test_a_damaged_database_is_not_taken_for_one_that_is_away_for_a_moment(tmp_path):
    path = tmp_path / "home" / "lsqctl.db"
    with open_store(f"sqlite:///{path}") as store:
        store.workers.register(identity("w1"))
        submit(store, new("a"))
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        store.close()  # what it had read before is kept in its connection
        with pytest.raises(UnusableDatabase, match=r"is damaged.*no backup"):
            store.maintenance.schema_version()
        with pytest.raises(UnusableDatabase, match="is damaged"):
            store.ensure_usable()


def test_a_database_made_anew_beside_folders_of_runs_is_not_called_sound(here):
    here("submit", "digits/resnet8-fp32")
    (run_id,) = here("runs", "ls", "-q").stdout.split()
    (here.folder / ".lsqctl" / "runs" / run_id).mkdir(mode=0o700)
    assert "sound" in here("db", "check").stderr
    database = here.folder / ".lsqctl" / "lsqctl.db"
    database.unlink()
    here("--db", f"sqlite:///{database.parent}/other.db", "runs", "ls", code=3)
    assert "is gone" in here("runs", "ls", code=ENDED).stderr
    with open_store(f"sqlite:///{database}"):
        pass  # as an earlier version would make it
    assert "knows none of the 1 run folder" in here("db", "check", code=ENDED).stderr


@pytest.mark.parametrize("alive", ["heartbeat", "lease"])
def test_a_database_is_not_upgraded_while_a_worker_of_its_version_lives(tmp_path, alive):
    from tests.store.test_migrate import ASSETS

    path = tmp_path / "lsqctl.db"
    shutil.copy(ASSETS / "0003.db", path)
    moment = "strftime('%Y-%m-%dT%H:%M:%f', 'now', '+20 seconds')"
    with closing(sqlite3.connect(path)) as db, db:
        (worker,) = db.execute("SELECT id FROM workers").fetchone()
        if alive == "heartbeat":
            db.execute(f"UPDATE workers SET seen_at = {moment}, gone_at = NULL")
        else:
            db.execute(
                f"UPDATE runs SET state = 'running', worker_id = ?, lease_until = {moment}",
                (worker,),
            )
    for _ in range(2):
        with pytest.raises(OlderSchema, match=r"0003.*worker .* works with it; stop that first"):
            open_store(f"sqlite:///{path}")
    assert list_backups(path).startswith("there is no backup")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE workers SET gone_at = seen_at")
        db.execute("UPDATE runs SET lease_until = '2020-01-01T00:00:00.000'")
    open_store(f"sqlite:///{path}").close()


def test_what_was_opened_stays_usable_while_it_is_locked(tmp_path):
    path = tmp_path / "home" / "lsqctl.db"
    with (
        open_store(f"sqlite:///{path}") as store,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        store.workers.register(identity("w1"))
        submit(store, new("a"))
        take(store)
        other.execute("BEGIN EXCLUSIVE")
        store.ensure_usable()
        other.execute("ROLLBACK")
        store.ensure_usable()
