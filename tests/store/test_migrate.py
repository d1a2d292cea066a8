"""Laws of the schema: built, upgraded whole or not at all, refused when newer."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lsqctl.bundled import bundled
from lsqctl.errors import StoreError
from lsqctl.store import open_store
from lsqctl.store.database import Database
from lsqctl.store.engine import parse_url
from lsqctl.store.migrate import ensure_schema, shipped_revisions

ASSETS = Path(__file__).parent.parent / "assets" / "db"


def test_revisions_build_exactly_the_tables(url: str) -> None:
    with open_store(url) as store:
        assert store.maintenance.check() == []
        assert store.maintenance.schema_version() == shipped_revisions(bundled("db"))[-1]


def test_two_first_starts_at_once_both_work(url: str) -> None:
    probe = (
        "import sys; from lsqctl.store import open_store; sys.stdin.read(); "
        "print(len(open_store(sys.argv[1]).maintenance.check()))"
    )
    argv = [sys.executable, "-W", "error", "-c", probe, url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(argv, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    for process in both:
        process.stdin.close()
        process.stdin = None
    assert [process.communicate(timeout=60)[0] for process in both] == ["0\n"] * 3


def set_revision(url: str, revision: str) -> None:
    with open_store(url) as store:
        sql = f"UPDATE alembic_version SET version_num = '{revision}'"
        store._database.write(lambda db: db.exec_driver_sql(sql))


def test_a_newer_schema_is_refused_with_both_versions(url: str) -> None:
    set_revision(url, "9999")
    with pytest.raises(StoreError, match=r"9999.*0003"):
        open_store(url)


def test_an_older_schema_is_left_alone_when_nothing_may_be_upgraded(url: str) -> None:
    with pytest.raises(StoreError, match=r"none.*0003"):
        open_store(url, migrate=False)
    open_store(url).close()
    open_store(url, migrate=False).close()


LATER = '''
"""A later revision that alters runs, as batch mode does on SQLite: copy, drop, rename."""
import sqlalchemy as sa
from alembic import op
revision = "0004"
down_revision = "0003"
def upgrade():
    with op.batch_alter_table("runs", recreate="always") as batch:
        batch.add_column(sa.Column("extra", sa.Text()))
'''


@pytest.fixture
def later_scripts(tmp_path: Path) -> Path:
    """The shipped revisions and one more."""
    scripts = tmp_path / "db"
    shutil.copytree(bundled("db"), scripts)
    (scripts / "versions" / "0004_extra.py").write_text(LATER)
    return scripts


RELEASED = sorted(path.stem for path in ASSETS.glob("*.db"))


def filled(tmp_path: Path, revision: str = RELEASED[-1]) -> Path:
    path = tmp_path / "old.db"
    shutil.copy(ASSETS / f"{revision}.db", path)
    return path


def test_a_database_of_every_released_schema_is_kept() -> None:
    assert shipped_revisions(bundled("db")) == RELEASED


@pytest.mark.parametrize("revision", RELEASED)
def test_the_database_of_each_released_schema_opens_and_holds_its_rows(
    tmp_path: Path, revision: str
) -> None:
    with open_store(f"sqlite:///{filled(tmp_path, revision)}") as store:
        assert [run.name for run in store.runs.list()] == ["released/child", "released/parent"]
        row = store.results.board_rows()[0]
        assert (row.n_correct, row.n_total) == (9, 10)
        assert len(store.metrics.points(row.run_id)) == 3
        assert len(store.metrics.quantizer_stats(row.run_id)) == (2 if revision >= "0003" else 0)
        (cell,) = store.sweeps.cells("released")
        assert cell.run is not None
        assert cell.run_sha256 == cell.run.run_sha256
        assert store.maintenance.check() == []


def test_an_upgrade_that_alters_runs_keeps_every_metric_and_a_copy_from_before(
    tmp_path: Path, later_scripts: Path
) -> None:
    path = filled(tmp_path)
    database = Database(parse_url(f"sqlite:///{path}"), busy_seconds=1, lease_seconds=30)
    ensure_schema(database, migrate=True, scripts=later_scripts)
    counts = {
        table: database.read(
            lambda db, table=table: db.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar()
        )
        for table in ("runs", "metric_points", "results", "run_parents", "alembic_version")
    }
    enforced = database.read(lambda db: db.exec_driver_sql("PRAGMA foreign_keys").scalar())
    database.close()
    assert counts == {
        "runs": 2,
        "metric_points": 3,
        "results": 1,
        "run_parents": 1,
        "alembic_version": 1,
    }
    assert enforced == 1
    copy = tmp_path / f"old.db.schema-{RELEASED[-1]}.bak"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with open_store(f"sqlite:///{copy}") as store:
        assert store.maintenance.check() == []


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(
    tmp_path: Path, later_scripts: Path
) -> None:
    revision = later_scripts / "versions" / "0004_extra.py"
    revision.write_text(LATER + "    op.execute('INSERT INTO nowhere VALUES (1)')\n")
    path = filled(tmp_path)
    database = Database(parse_url(f"sqlite:///{path}"), busy_seconds=1, lease_seconds=30)
    with pytest.raises(StoreError, match="nowhere"):
        ensure_schema(database, migrate=True, scripts=later_scripts)
    database.close()
    with open_store(f"sqlite:///{path}") as store:
        assert store.maintenance.schema_version() == RELEASED[-1]
        assert store.maintenance.check() == []
        assert len(store.runs.list()) == 2
