"""Laws of opening: where a database may lie, and who may read it."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url

from lsqctl.errors import StoreError
from lsqctl.store import engine, open_store
from lsqctl.store.engine import file_system_type, is_network_file_system, wal_is_safe
from tests.store.samples import new, submit


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_only_the_owner_may_read_the_database_even_without_a_umask(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/new/home/lsqctl.db") as store:
        submit(store, new("a"))
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "new").rglob("*")}
    assert modes.pop("home") == 0o700
    assert {name for name in modes if name.startswith("lsqctl.db")} == set(modes)
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_folder_that_everyone_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(StoreError, match=r"writable by everyone.*chmod o-w"):
        open_store(f"sqlite:///{tmp_path}/lsqctl.db")
    assert list(tmp_path.iterdir()) == []


def test_a_network_file_system_is_refused_and_postgresql_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(engine, "MOUNTS", mounts)
    with pytest.raises(StoreError, match=r"nfs4.*postgresql\+psycopg"):
        open_store(f"sqlite:///{tmp_path}/home/lsqctl.db")


def test_the_longest_mount_point_says_what_file_system_it_is() -> None:
    mounts = "\n".join(
        [
            "/dev/a / ext4 rw 0 0",
            "b /home nfs rw 0 0",
            "c /home/me ext4 rw 0 0",
            r"d /a\040b fuse.sshfs rw 0 0",
        ]
    )
    kinds = {"/x": "ext4", "/home": "nfs", "/home/you": "nfs", "/home/me/x": "ext4"}
    for path, kind in {**kinds, "/homes": "ext4", "/a b/c": "fuse.sshfs"}.items():
        assert file_system_type(Path(path), mounts) == kind
    assert [
        k for k in ("ext4", "fuse.sshfs", "fuseblk", "tmpfs", "cifs") if is_network_file_system(k)
    ] == [
        "fuse.sshfs",
        "cifs",
    ]


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_is_used_only_where_it_cannot_corrupt(version: tuple[int, ...], safe: bool) -> None:
    assert wal_is_safe(version) is safe


@pytest.mark.parametrize(
    ("version", "mode"), [((3, 40, 1), "persist"), ((3, 51, 2), "persist"), ((3, 51, 3), "wal")]
)
def test_the_journal_mode_follows_the_version_and_every_commit_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], mode: str
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    with open_store(f"sqlite:///{tmp_path}/lsqctl.db") as store:
        pragmas = ("journal_mode", "synchronous", "foreign_keys")

        def ask(name: str) -> object:
            return store._database.read(lambda db: db.exec_driver_sql(f"PRAGMA {name}").scalar())

        assert [ask(name) for name in pragmas] == [mode, 2, 1]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://u:hunter2@h/db", "mysql.*sqlite:///PATH"),
        ("nonsense", "cannot be read"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("postgresql://u:hunter2@127.0.0.1:1/db", r"u:\*\*\*@127.0.0.1.*is the server running"),
        ("sqlite:////proc/lsqctl/lsqctl.db", "--home or --db"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_without_a_password(url: str, says: str) -> None:
    with pytest.raises(StoreError, match=says) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "secret"),
    [("u:refused@127.0.0.1:1/db", "refused"), ("127.0.0.1:1/db?password=hunter2", "hunter2")],
)
def test_no_message_of_the_driver_and_no_part_of_the_url_shows_a_password(
    url: str, secret: str
) -> None:
    with pytest.raises(StoreError, match="is the server running") as caught:
        open_store(f"postgresql://{url}")
    assert secret not in str(caught.value)


def test_a_file_or_a_folder_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be taken for one\n" * 100)
    with pytest.raises(StoreError, match=r"not a database.*--db"):
        open_store(f"sqlite:///{text}")
    assert text.read_text().startswith("not a database")
    with pytest.raises(StoreError, match="is a folder"):
        open_store(f"sqlite:///{tmp_path}")
    with pytest.raises(StoreError, match=r"notes\.txt"):
        open_store(f"sqlite:///{text}/home/lsqctl.db")


def test_a_database_that_stays_locked_is_a_store_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "lsqctl.db"
    with open_store(f"sqlite:///{path}", busy_seconds=0.05) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreError, match=r"locked.*another process"):
                submit(store, new("a"))
        assert len(submit(store, new("a"))) == 1


def test_importing_the_store_imports_neither_alembic_nor_pandas_nor_torch(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lsqctl.db"
    open_store(url).close()
    probe = (
        "import sys; from lsqctl.store import open_store; open_store(sys.argv[1]).close(); "
        "print({'alembic', 'pandas', 'torch'} & set(sys.modules))"
    )
    argv = [sys.executable, "-c", probe, url]
    out = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def refusal(url: URL, **options: float) -> str:
    with pytest.raises(StoreError) as error, open_store(whole(url), **options) as store:
        store.workers.heartbeat("nobody")
    return str(error.value)


def whole(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def test_a_server_that_refuses_is_answered_with_what_to_do(postgresql_url: str) -> None:
    import psycopg

    url = make_url(postgresql_url)
    with open_store(postgresql_url):
        pass
    absent = refusal(url.set(database="absent"))
    assert 'database "absent" does not exist on the server; `createdb absent`' in absent
    assert "restore" not in absent
    nobody = refusal(url.set(username="nobody"))
    assert 'role "nobody" does not exist on the server; `createuser nobody`' in nobody
    server = whole(url.set(drivername="postgresql"))
    with psycopg.connect(server, autocommit=True) as other:
        with other.transaction():
            other.execute("LOCK TABLE workers IN ACCESS EXCLUSIVE MODE")
            assert "another process has held it for long" in refusal(url, busy_seconds=0.05)
        other.execute(f"ALTER DATABASE {url.database} SET default_transaction_read_only = on")
        assert "name a server that may be written" in refusal(url)
        other.execute(f"ALTER DATABASE {url.database} RESET default_transaction_read_only")
        other.execute("CREATE ROLE guest LOGIN")
        try:
            assert "`lsqctl db grants`" in refusal(url.set(username="guest"))
        finally:
            other.execute("DROP ROLE guest")
