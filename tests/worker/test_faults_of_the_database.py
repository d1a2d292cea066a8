"""A database that is locked, full, restarted or silent loses no metric and stops no training."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import make_url

from lsqctl.errors import LeaseLost, StoreError
from lsqctl.events import Checkpoint, Metric, Progress, Resumed
from lsqctl.run import EndReason, RunState
from lsqctl.store import Store, open_store
from lsqctl.worker.recorder import Recorder, ingest_spool
from tests.conftest import CommandLine, tmpfs, wait_for
from tests.store.conftest import postgresql, postgresql_url  # noqa: F401 (fixtures)
from tests.store.samples import identity, new, result, submit, take
from tests.worker.long_run import (
    LONG,
    at_work,
    final_hashes,
    reproducible,
    slow_down,
    submitted,
)


@pytest.fixture
def store(empty_store):
    submit(empty_store, new("a"))
    return empty_store


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "run"


class Held:
    """Another process's transaction that lets nobody in."""

    def __init__(self, path: Path, begin: str = "BEGIN EXCLUSIVE") -> None:
        code = (
            "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None, "
            "timeout=60); db.execute(sys.argv[2]); db.execute('SELECT * FROM runs').fetchall(); "
            "print('held', flush=True); sys.stdin.read(); db.execute('ROLLBACK')"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", code, path, begin], **pipes)
        assert self.process.stdout.readline() == "held\n"

    def release(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.communicate(timeout=60)


ODD = [Metric("loss", "train", step, value) for step, value in enumerate((math.nan, math.inf, 0.1))]


def same(found: list[Metric], wanted: list[Metric]) -> bool:
    return list(map(repr, found)) == list(map(repr, wanted))


def test_metrics_wait_on_the_disk_while_the_database_is_locked_and_go_in_when_it_is_not(
    store, path, run_dir
):
    lease = take(store).lease
    now = [0.0]
    with Recorder(store, lease, run_dir=run_dir, clock=lambda: now[0]) as recorder:
        held = Held(path)
        for metric in ODD[:2]:
            now[0] += 10
            recorder.record(metric)
        now[0] += 10
        recorder.record(Progress(2, 3, 0, 1))
        spool = run_dir / "spool-1.jsonl"
        assert spool.read_text().count("loss") == 2
        assert spool.stat().st_mode & 0o077 == 0
        held.release()
        assert store.metrics.points(lease.run_id) == []
        now[0] += 100
        recorder.record(ODD[2])
        assert same(store.metrics.points(lease.run_id), ODD)
        assert spool.read_text() == ""
    assert not spool.exists()
    assert store.runs.detail(lease.run_id).run.step == 2


@pytest.mark.parametrize("what", ["start", "checkpoint", "finish"])
def test_start_checkpoint_and_finish_wait_for_the_database(store, path, run_dir, what):
    lease = take(store).lease
    saved = Checkpoint(2, 1, run_dir, "sha", 10)
    fact = {"start": Resumed(None), "checkpoint": saved, "finish": result()}[what]
    with Recorder(store, lease, run_dir=run_dir) as recorder:
        recorder.record(ODD[0])
        held = Held(path)
        threading.Timer(1.0, held.release).start()
        recorder.record(fact)
    assert len(store.metrics.points(lease.run_id)) == 1
    if what == "finish":
        assert store.runs.detail(lease.run_id).run.state is RunState.SUCCEEDED


def record_all(facts, store, lease, run_dir):
    with Recorder(store, lease, run_dir=run_dir, stop=lambda: True) as recorder:
        for fact in facts:
            recorder.record(fact)


def test_a_database_that_stays_away_ends_the_attempt_as_a_fault_of_the_machine(
    store, path, run_dir
):
    from lsqctl.worker.reasons import end_reason_of

    lease = take(store).lease
    held = Held(path)
    facts = ODD[2], Checkpoint(2, 1, run_dir, "sha", 10)
    with pytest.raises(StoreError, match="locked") as error:
        record_all(facts, store, lease, run_dir)
    held.release()
    assert end_reason_of(error.value) is EndReason.INFRA
    ingest_spool(store, lease, run_dir)  # as the supervisor does before it ends the attempt
    assert store.metrics.points(lease.run_id) == [ODD[2]]
    assert list(run_dir.iterdir()) == []


def test_an_attempt_takes_in_what_a_killed_one_measured_up_to_the_step_it_goes_on_from(
    store, run_dir
):
    first = take(store).lease
    killed = Recorder(store, first, run_dir=run_dir)
    for metric in ODD:
        killed.record(metric)
    with (run_dir / "spool-1.jsonl").open("a") as file:
        file.write('["loss", "tra')  # killed while it wrote
    store.queue.release(first)
    second = take(store).lease
    with Recorder(store, second, run_dir=run_dir) as recorder:
        recorder.record(Resumed(1))
        assert same(store.metrics.points(first.run_id), ODD[:2])
        for metric in ODD:  # a zombie: its file is gone from the folder
            killed._spool.append(metric)
        assert [path.name for path in run_dir.iterdir()] == ["spool-2.jsonl"]
    assert list(run_dir.iterdir()) == []


def test_a_spool_is_refused_without_the_lease(store, run_dir):
    lease = take(store).lease
    Recorder(store, lease, run_dir=run_dir).record(ODD[2])
    store.queue.release(lease)
    with pytest.raises(LeaseLost):
        ingest_spool(store, lease, run_dir)
    assert store.metrics.points(lease.run_id) == []


class Forgetful:
    """A store whose answer to ``finish`` is lost on its way, though it was done."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.left = 1

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def finish(self, *arguments: object) -> None:
        self._store.queue.finish(*arguments)
        if self.left:
            self.left -= 1
            raise StoreError("the connection was lost")


def test_a_finish_whose_answer_was_lost_is_not_taken_for_a_lost_lease(store, run_dir):
    lease = take(store).lease
    with Recorder(Forgetful(store), lease, run_dir=run_dir) as recorder:
        recorder.record(result())
    assert store.runs.detail(lease.run_id).run.state is RunState.SUCCEEDED


def store_at(cli: CommandLine) -> Store:
    url = cli.environment.get("LSQCTL_DB", f"sqlite:///{cli.folder / '.lsqctl' / 'lsqctl.db'}")
    return open_store(url, lease_seconds=1)


def assert_finished_alike(cli: CommandLine, store: Store, run_id: str, uninterrupted) -> None:
    detail = store.runs.detail(run_id)
    assert detail.run.state is RunState.SUCCEEDED, detail
    assert reproducible(store, run_id) == uninterrupted[1]
    assert final_hashes(cli, run_id)["model.pt"] == uninterrupted[0]
    assert store.maintenance.check() == []
    folder = cli.folder / ".lsqctl" / "runs" / run_id
    assert not list(folder.glob("spool-*"))
    ended = [(one.reason, one.message) for one in detail.attempts]
    assert all(_for_the_database(*one) for one in ended), ended


def _for_the_database(reason: EndReason | None, message: str) -> bool:
    """Whether an attempt may end so: of all that is infra, only by a database that stays away."""
    away = reason is EndReason.INFRA and message.startswith("database ")
    return away or reason in {EndReason.PREEMPTED, EndReason.WORKER_LOST, EndReason.COMPLETED}


def spooled(cli: CommandLine, run_id: str) -> bool:
    found = (cli.folder / ".lsqctl" / "runs" / run_id).glob("spool-*.jsonl")
    return any(path.stat().st_size for path in found)


def hold_up(cli: CommandLine, uninterrupted, seconds: float) -> None:
    slow_down(cli)
    run_id = submitted(cli, LONG)
    worker = cli.start("worker", "--until-empty", "--slots", "2")
    with store_at(cli) as store:
        wait_for(lambda: at_work(store, run_id))
    held = Held(cli.folder / ".lsqctl" / "lsqctl.db")
    wait_for(lambda: spooled(cli, run_id))
    time.sleep(seconds)
    held.release()
    told, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0, told
    assert "Traceback" not in told
    with store_at(cli) as store:
        assert_finished_alike(cli, store, run_id, uninterrupted)


@pytest.mark.slow
def test_a_database_locked_for_longer_than_a_lease_and_all_retries_loses_nothing(
    cli, uninterrupted
):
    hold_up(cli, uninterrupted, seconds=4)


@pytest.mark.slow
def test_a_database_locked_for_a_minute_loses_nothing(cli, uninterrupted):
    hold_up(cli, uninterrupted, seconds=60)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED: a full file system (needs root: mount)")
def test_a_full_disk_under_the_database_loses_nothing_and_leaves_it_whole(
    cli, tmp_path, uninterrupted
):
    with tmpfs(tmp_path / "disk", "4m") as disk:
        cli.environment["LSQCTL_DB"] = f"sqlite:///{disk / 'lsqctl.db'}"
        slow_down(cli)
        run_id = submitted(cli, LONG)
        worker = cli.start("worker", "--until-empty", "--slots", "2")
        with store_at(cli) as store:
            wait_for(lambda: at_work(store, run_id))
            fill(disk / "ballast")
            time.sleep(3)
            (disk / "ballast").unlink()
            told, _ = worker.communicate(timeout=120)
            assert worker.returncode == 0, told
            assert_finished_alike(cli, store, run_id, uninterrupted)
        with closing(sqlite3.connect(disk / "lsqctl.db")) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


KILL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE pid <> pg_backend_pid() AND datname = current_database()"
)


def restart(url: str) -> None:
    """Restart the server as a crash would."""
    control(url, "-m", "immediate", "restart")


def control(url: str, *what: str) -> None:
    """Let pg_ctl start or end the server, which then listens where it did."""
    home = Path(str(make_url(url).query["host"]))
    (program,) = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))[-1:]
    words = [program, "-D", home / "data", "-w", "-l", home / "log", *what]
    if what == ("start",):
        words += ["-o", f"-c listen_addresses='' -c fsync=off -c unix_socket_directories={home}"]
    user = {"user": "postgres"} if os.getuid() == 0 else {}
    subprocess.run(words, check=True, cwd=home, stdout=subprocess.DEVNULL, **user)


def test_a_killed_backend_and_a_restarted_postgresql_leave_training_uninterrupted(
    cli,
    postgresql_url,  # noqa: F811
    uninterrupted,
):
    cli.environment |= {"LSQCTL_DB": postgresql_url, "LSQCTL_LEASE": "10"}
    slow_down(cli)
    run_id = submitted(cli, LONG)
    worker = cli.start("worker", "--until-empty", "--slots", "2")
    with store_at(cli) as store:
        wait_for(lambda: at_work(store, run_id))
        store._database.read(lambda db: db.exec_driver_sql(KILL).all())
        before = store.runs.detail(run_id).run.step
        wait_for(lambda: store.runs.detail(run_id).run.step > before)
    restart(postgresql_url)
    told, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0, told
    with store_at(cli) as store:
        assert_finished_alike(cli, store, run_id, uninterrupted)
        assert len(store.runs.detail(run_id).attempts) == 1


class Proxy:
    """Passes bytes between TCP and a Unix socket, until it swallows them without a word."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.dead = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets = [self._listener]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._target))
            self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self.dead:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        for each in self._sockets:
            each.close()


@pytest.fixture
def proxy(postgresql_url):  # noqa: F811
    found = Proxy(Path(str(make_url(postgresql_url).query["host"])) / ".s.PGSQL.5432")
    yield found
    found.close()


def test_a_server_that_falls_silent_is_noticed_within_a_third_of_the_lease(
    proxy,
    postgresql_url,  # noqa: F811
):
    """A half-open connection: what we send is acknowledged, and nothing ever comes back."""
    url = make_url(postgresql_url)
    through = f"postgresql+psycopg://lsqctl@127.0.0.1:{proxy.port}/{url.database}"
    with open_store(through, lease_seconds=9, busy_seconds=0) as store:
        store.workers.register(identity("w1"))
        submit(store, new("a"))
        lease = take(store).lease
        proxy.dead = True
        with pytest.raises(StoreError, match=r"no answer from the server for 2 s|timeout expired"):
            store.queue.renew(lease)  # without a bound it would never end
        proxy.dead = False
        assert not store.queue.renew(lease).cancel_requested
    with open_store(through) as store:  # as a worker opens it
        raw = store._database.engine.raw_connection()
        assert raw.driver_connection.read_timeout <= store.lease_seconds / 3
        raw.close()
