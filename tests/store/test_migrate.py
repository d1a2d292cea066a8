"""Laws of the schema: built, upgraded whole or not at all, refused when newer."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, inspect

from lsqctl.bundled import bundled
from lsqctl.errors import StoreError
from lsqctl.store import open_store
from lsqctl.store.database import Database
from lsqctl.store.engine import parse_url
from lsqctl.store.migrate import ensure_schema, run_revisions, shipped_revisions
from lsqctl.store.tables import metadata

ASSETS = Path(__file__).parent.parent / "assets" / "db"
REVISIONS = shipped_revisions(bundled("db"))
NEXT = f"{int(REVISIONS[-1]) + 1:04}"


def schema_of(url: str) -> dict[str, object]:
    """All that a database's catalogue says of its tables, but the order of their columns."""
    engine = create_engine(url, poolclass=NullPool)
    catalogue = inspect(engine)
    schema: dict[str, object] = {}
    for name in catalogue.get_table_names():
        columns = {column["name"]: str(column) for column in catalogue.get_columns(name)}
        parts = (
            *(catalogue.get_pk_constraint(name), catalogue.get_foreign_keys(name)),
            *(catalogue.get_indexes(name), catalogue.get_unique_constraints(name)),
            *(catalogue.get_check_constraints(name), catalogue.get_table_options(name)),
        )
        several = [sorted(map(str, p)) if isinstance(p, list) else str(p) for p in parts]
        schema[name] = (dict(sorted(columns.items())), several)
    if url.startswith("sqlite"):
        with engine.connect() as db:
            texts = dict(db.exec_driver_sql("SELECT name, sql FROM sqlite_master").all())
        schema |= {
            f"{name} {words}": words in (texts[name] or "")
            for name in catalogue.get_table_names()
            for words in ("AUTOINCREMENT", "WITHOUT ROWID")
        }
    return schema


def test_a_new_database_has_the_schema_that_all_revisions_build(url: str) -> None:
    database = Database(parse_url(url), busy_seconds=1, lease_seconds=30)
    with database.engine.begin() as db:
        run_revisions(db, bundled("db"))
    database.close()
    revised = schema_of(url)
    with create_engine(url, poolclass=NullPool).begin() as db:
        for name in reversed(metadata.sorted_tables):
            db.exec_driver_sql(f"DROP TABLE {name}")
        db.exec_driver_sql("DROP TABLE alembic_version")
    with open_store(url) as store:
        assert store.maintenance.check() == []
        assert store.maintenance.schema_version() == REVISIONS[-1]
    assert schema_of(url) == revised


def test_a_database_of_somebody_else_is_refused_and_left_as_it_was(url: str) -> None:
    engine = create_engine(url, poolclass=NullPool)
    if url.startswith("sqlite"):
        Path(str(engine.url.database)).parent.mkdir()
    with engine.begin() as db:
        db.exec_driver_sql("CREATE TABLE workers (name TEXT)")
    with pytest.raises(StoreError, match=r"workers.*exists"):
        open_store(url)
    assert inspect(engine).get_table_names() == ["workers"]


@pytest.mark.slow
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
    with pytest.raises(StoreError, match=f"9999.*{REVISIONS[-1]}"):
        open_store(url)


def test_an_older_schema_is_left_alone_when_nothing_may_be_upgraded(url: str) -> None:
    with pytest.raises(StoreError, match=f"none.*{REVISIONS[-1]}"):
        open_store(url, migrate=False)
    open_store(url).close()
    open_store(url, migrate=False).close()


LATER = f'''
"""A later revision that alters runs, as batch mode does on SQLite: copy, drop, rename."""
import sqlalchemy as sa
from alembic import op
revision = "{NEXT}"
down_revision = "{REVISIONS[-1]}"
def upgrade():
    with op.batch_alter_table("runs", recreate="always") as batch:
        batch.add_column(sa.Column("extra", sa.Text()))
'''


@pytest.fixture
def later_scripts(tmp_path: Path) -> Path:
    """The shipped revisions and one more."""
    scripts = tmp_path / "db"
    shutil.copytree(bundled("db"), scripts)
    (scripts / "versions" / f"{NEXT}_extra.py").write_text(LATER)
    return scripts


RELEASED = sorted(path.stem for path in ASSETS.glob("*.db"))


def filled(tmp_path: Path, revision: str = RELEASED[-1]) -> Path:
    path = tmp_path / "old.db"
    shutil.copy(ASSETS / f"{revision}.db", path)
    return path


def test_a_database_of_every_released_schema_is_kept() -> None:
    assert REVISIONS == RELEASED


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


Rows = dict[str, list[dict[str, Any]]]


def raw_rows(path: Path) -> Rows:
    """All rows of a file, each by its columns' names, in the order of all their values."""
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        tables = {name for (name,) in db.execute(query)} - {"alembic_version"}
        rows = {name: [dict(row) for row in db.execute(f"SELECT * FROM {name}")] for name in tables}
    return {name: sorted(found, key=repr) for name, found in rows.items()}


def to_0002(rows: Rows) -> Rows:
    """Cells are keyed by their run's hash and keep its submission; all else begins empty."""
    run_of = {run["id"]: run for run in rows["runs"]}
    sha_of_parents = {
        (link["run_id"], link["role"]): run_of[link["parent_id"]]["run_sha256"]
        for link in rows["run_parents"]
    }
    cells = []
    for cell in rows["sweep_cells"]:
        run = run_of[cell["run_id"]]
        kept = {key: run[key] for key in ("name", "recipe_sha256", "epochs")}
        kept |= {key: json.loads(run[key]) for key in ("recipe", "snapshot")}
        parents = {
            role: sha for (run_id, role), sha in sha_of_parents.items() if run_id == run["id"]
        }
        more = {
            "run_sha256": run["run_sha256"],
            "submission": json.dumps(kept | {"parents": parents}),
        }
        cells.append(cell | more)
    return rows | {
        "runs": [run | {"gpus": 1, "time_limit_seconds": None, "note": ""} for run in rows["runs"]],
        "workers": [worker | {"notice": ""} for worker in rows["workers"]],
        "sweeps": [sweep | {"max_failures": None} for sweep in rows["sweeps"]],
        "sweep_cells": cells,
        "run_tags": [],
    }


def to_0003(rows: Rows) -> Rows:
    """A table more."""
    return rows | {"quantizer_stats": []}


NEW_NAMES = {
    "runs": {
        "snapshot": "provenance",
        "circumstances": "pinned_environment",
        "urgency": "priority",
        "failures": "consecutive_failures",
        "checkpoint_step": "max_checkpoint_step",
    },
    "attempts": {"circumstances": "environment", "progressed": "moved_checkpoint"},
    "workers": {
        "started": "process_started",
        "seen_at": "last_heartbeat_at",
        "gone_at": "stopped_at",
    },
}


def to_0004(rows: Rows) -> Rows:
    """Names in the field's words; no run is removed."""
    renamed = {
        table: [{NEW_NAMES.get(table, {}).get(k, k): v for k, v in row.items()} for row in found]
        for table, found in rows.items()
    }
    for row in (*renamed["runs"], *renamed["attempts"]):
        row["reason"] = "worker_lost" if row["reason"] == "lost" else row["reason"]
    for run in renamed["runs"]:
        run |= {"priority": -run["priority"], "removed_at": None}
    for cell in renamed["sweep_cells"]:
        submission = json.loads(cell["submission"])
        submission["provenance"] = submission.pop("snapshot")
        cell["submission"] = json.dumps(submission)
    return renamed


def to_0005(rows: Rows) -> Rows:
    """Each evaluation has its loss, where a metric says it."""
    losses = {
        (point["run_id"], point["name"], point["step"]): point["value"]
        for point in rows["metric_points"]
        if point["split"] == "val"
    }
    for row in rows["results"]:
        name = "loss" if row["variant"] == "raw" else f"{row['variant']}_loss"
        row["loss"] = losses.get((row["run_id"], name, row["step"]))
    return rows


def to_0006(rows: Rows) -> Rows:
    """All that was submitted before is local, and nobody knows by whom."""
    new = {"origin": "local", "user": "", "partial": 0}
    return rows | {"runs": [run | new for run in rows["runs"]]}


UPGRADES: Mapping[str, Callable[[Rows], Rows]] = {
    "0002": to_0002,
    "0003": to_0003,
    "0004": to_0004,
    "0005": to_0005,
    "0006": to_0006,
}


def comparable(rows: Rows) -> dict[str, list[str]]:
    """Rows in an order of their own, with JSON as values."""

    def plain(row: dict[str, Any]) -> str:
        texts = {"submission": json.loads(row["submission"])} if "submission" in row else {}
        return json.dumps(row | texts, sort_keys=True, default=repr)

    return {table: sorted(map(plain, found)) for table, found in rows.items()}


@pytest.mark.parametrize("revision", RELEASED)
def test_an_upgrade_from_each_released_schema_loses_no_value_of_any_row(
    tmp_path: Path, revision: str
) -> None:
    path = filled(tmp_path, revision)
    with closing(sqlite3.connect(path)) as db:
        # what the assets lack: priorities, a lost worker, the loss of an evaluation
        priority = "urgency" if revision < "0004" else "priority"
        lost = "lost" if revision < "0004" else "worker_lost"
        db.execute(f"UPDATE runs SET {priority} = 3 * seq")
        db.execute("UPDATE attempts SET reason = ?", [lost])
        db.execute(
            "INSERT INTO metric_points SELECT run_id, 'loss', 'val', step, 0.25, 'number', '' "
            "FROM results WHERE variant = 'raw'"
        )
        db.commit()
    expected = raw_rows(path)
    for later in REVISIONS[REVISIONS.index(revision) + 1 :]:
        expected = UPGRADES[later](expected)
    open_store(f"sqlite:///{path}").close()
    assert comparable(raw_rows(path)) == comparable(expected)


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
        "runs": 3,  # one of them is in the trash
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
    revision = later_scripts / "versions" / f"{NEXT}_extra.py"
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
