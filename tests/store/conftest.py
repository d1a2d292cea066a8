"""A fresh database for each test: a SQLite file, and a PostgreSQL of our own where installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lsqctl.store import Store, open_store
from tests.store.samples import Clock, identity

LEASE = 30.0


def _server_programs() -> Path | None:
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The start of URLs of a PostgreSQL server on a Unix socket, to end with a database's name."""
    programs = _server_programs()
    if programs is None:
        pytest.skip("NOT TESTED ON POSTGRESQL: no initdb here (Debian: apt install postgresql)")
    pytest.importorskip("psycopg", reason="NOT TESTED ON POSTGRESQL: pip install 'lsqctl[dev]'")
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    home = Path(tempfile.mkdtemp(prefix="lsqctl-pg-"))
    shutil.chown(home, user)
    as_user = {"user": user} if os.getuid() == 0 else {}

    def call(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", str(home / "data"), *arguments]
        subprocess.run(command, check=True, cwd=home, stdout=subprocess.DEVNULL, **as_user)

    call("initdb", "-A", "trust", "-U", "lsqctl", "--no-sync", "-E", "UTF8", "--no-locale")
    options = f"-c listen_addresses='' -c fsync=off -c unix_socket_directories={home}"
    call("pg_ctl", "-w", "-l", str(home / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://lsqctl@/%s?host={home}"
    finally:
        call("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(home)


@pytest.fixture
def postgresql_url(postgresql: str) -> Iterator[str]:
    """The URL of a new, empty database, dropped afterwards: each takes 8 MB of disk."""
    import psycopg

    name = f"t{uuid.uuid4().hex}"
    server = (postgresql % "postgres").replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgresql % name
    with psycopg.connect(server, autocommit=True) as connection:  # anew: a test may restart it
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home/lsqctl.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    """A store with one registered worker, `w1`, and a clock that stands still."""
    with open_store(url, lease_seconds=LEASE, clock=clock) as opened:
        opened.workers.register(identity("w1"))
        yield opened
