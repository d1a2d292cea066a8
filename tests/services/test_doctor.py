"""Laws of `doctor`: each finding is made true for real, is found, and says what to do."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lsqctl.run import EndReason, WorkerIdentity
from lsqctl.services import doctor_machine
from lsqctl.services.doctor import diagnose
from lsqctl.services.doctor_machine import Finding
from lsqctl.settings import load_settings
from lsqctl.store import Store, engine, open_store
from tests.services.test_submit import make_images, one_pixel, save_resnet8
from tests.store.conftest import postgresql, postgresql_url  # noqa: F401 (fixtures)
from tests.store.samples import checkpoint, identity, new, submit, take

ASSETS = Path(__file__).parent.parent / "assets" / "db"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / ".lsqctl"


@pytest.fixture
def store(home: Path):
    with open_store(f"sqlite:///{home / 'lsqctl.db'}") as opened:
        yield opened


def findings(home: Path, db: str | None = None) -> list[Finding]:
    return diagnose(load_settings(home=home, db=db))


def found(home: Path, told: str, db: str | None = None) -> Finding:
    """The one finding that holds these words."""
    matching = [one for one in findings(home, db) if told in one.message]
    assert len(matching) == 1, findings(home, db)
    return matching[0]


def sql(store: Store, statement: str) -> None:
    store._database.write(lambda db: db.exec_driver_sql(statement))


def test_a_healthy_workspace_has_nothing_to_fix_and_none_is_made_by_looking(home, store):
    assert {one.level for one in findings(home)} == {"ok"}
    elsewhere = home.parent / "elsewhere"
    assert {one.level for one in findings(elsewhere)} == {"ok"}
    assert not elsewhere.exists()


def test_a_finding_without_a_fix_cannot_be_made():
    with pytest.raises(ValueError, match="needs a fix"):
        Finding("warning", "something")


def test_queued_runs_without_a_worker(home, store):
    submit(store, new("a"))
    assert found(home, "1 run queued, and no worker").fix.startswith("lsqctl worker")
    store.workers.register(identity("w1"))
    assert "1 workers at work, 1 slots" in {one.message for one in findings(home)}


def test_a_lost_worker_and_what_it_had(home, store):
    store.workers.register(identity("w1"))
    submit(store, new("a"))
    take(store)
    before = "strftime('%Y-%m-%dT%H:%M:%f', 'now', '-90 seconds')"
    sql(store, f"UPDATE workers SET last_heartbeat_at = {before}")
    one = found(home, "is stale")
    assert one.level == "warning"
    assert ", with 1 run" in one.message
    assert "lsqctl worker" in one.fix


def test_a_run_that_reserves_more_gpus_than_any_worker_has(home, store):
    (run,) = submit(store, new("a", gpus=4))
    store.workers.register(WorkerIdentity("g", "g", "h", 1, 1.0, "", 2, "cuda"))
    assert f"lsqctl runs gpus {run} 1" in found(home, f"run {run} reserves 4 GPUs").fix
    store.workers.register(WorkerIdentity("h", "h", "h", 1, 1.0, "", 4, "cuda"))
    assert not [one for one in findings(home) if "reserves 4" in one.message]


def test_held_runs(home, store):
    (run,) = submit(store, new("a"))
    store.runs.hold(run)
    assert found(home, "1 run held").fix == f"lsqctl runs release {run}"
    assert not [one for one in findings(home) if "no worker" in one.message]


def test_a_run_that_waits_too_long(home, store):
    (run,) = submit(store, new("a"))
    sql(store, "UPDATE runs SET created_at = strftime('%Y-%m-%dT%H:%M:%f', 'now', '-30 hours')")
    assert run in found(home, "has waited in the queue for 30 h").fix


def test_failed_runs(home, store):
    store.workers.register(identity("w1"))
    submit(store, new("a"))
    store.queue.fail(take(store).lease, EndReason.OOM, "")
    assert "lsqctl runs ls --state failed" in {one.fix for one in findings(home)}


def test_a_run_that_waits_for_what_a_worker_would_refuse_is_named_with_the_reason(here):
    """The images, the weights and their classes change after the submit, or were not looked at."""
    file = here.folder.joinpath
    save_resnet8(file("w.pt"))
    save_resnet8(file("w3.pt"), in_channels=3)
    file("w.yaml").write_text("model: {name: resnet8, weights: w.pt}\ndata: {name: digits}\n")
    file("i.yaml").write_text("model: {name: resnet8}\ndata: {name: imagefolder}\n")
    file("iw.yaml").write_text(
        "model: {name: resnet8, weights: w3.pt}\ndata: {name: imagefolder}\n"
    )
    seeds = ["--seed", "1", "--seed", "2"]
    here("submit", "iw.yaml", "--data-dir", "data", *seeds, "--skip-data-check")
    make_images(file("data"), "cat", "dog")
    here("submit", "w.yaml", "i.yaml", "--data-dir", "data")
    (only,) = problems(here)
    assert re.search(r"^run \w+ \(iw, seed \d\) and 1 more would fail: ", only)
    assert "trained for 10 classes, and the data have 2" in only
    file("data/imagefolder/val/dog/a.png").write_bytes(one_pixel("b"))
    file("w.pt").write_bytes(b"others")
    said = "\n".join(problems(here))
    assert re.search(r"\(i, seed 0\) would fail: data.name: imagefolder in .* has changed", said)
    assert re.search(r"\(w, seed 0\) would fail: model.weights: .*w\.pt has changed since", said)
    file("data/imagefolder").rename(file("elsewhere"))
    assert any(" and 2 more would fail: no imagefolder data in" in one for one in problems(here))


def problems(here) -> list[str]:
    done = json.loads(here("doctor", "--json").stdout)["findings"]
    return [one["message"] for one in done if "would fail" in one["message"]]


def test_checkpoints_whose_files_are_gone_and_leftovers_that_may_go(home, store):
    store.workers.register(identity("w1"))
    (run,) = submit(store, new("a"))
    claim = take(store)
    store.checkpoints.record(claim.lease, checkpoint(10))
    folder = home / "runs" / run
    (folder / "ckpt.tmp.00ff").mkdir(parents=True)
    assert "runs rm" in found(home, f"1 checkpoint of 1 run without files ({run})").fix
    assert found(home, "can go").fix == "lsqctl runs gc"
    (folder / "ckpt-10").mkdir()
    assert not [one for one in findings(home) if "no files" in one.message]


def test_run_folders_of_another_workspace(home, store):
    (home / "runs" / "zzzzzzzz").mkdir(parents=True)
    assert "--home and --db belong together" in found(home, "knows none of").fix


def test_a_workspace_that_everyone_may_write_to(home, store):
    home.chmod(0o777)
    told = [one for one in findings(home) if one.level == "error"]
    assert told[0].fix == f"chmod o-w {home}"
    home.chmod(0o700)


def test_a_network_file_system(home, store, monkeypatch):
    mounts = home.parent / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {home.parent} nfs4 rw 0 0\n")
    monkeypatch.setattr(engine, "MOUNTS", mounts)
    monkeypatch.setattr(doctor_machine, "MOUNTS", mounts)
    told = [one for one in findings(home) if one.level == "error"]
    assert told
    assert all("postgresql+psycopg" in one.fix for one in told)


def test_little_room_on_disk_and_in_shared_memory(home, store, monkeypatch):
    monkeypatch.setattr(doctor_machine, "LOW_DISK_BYTES", 2**62)
    monkeypatch.setattr(doctor_machine, "LOW_SHM_BYTES", 2**62)
    assert "lsqctl runs gc" in found(home, "GB free").fix
    assert "--shm-size" in found(home, "shared memory").fix


def test_a_driver_too_old_for_torch_and_a_torch_without_cuda(home, monkeypatch, tmp_path):
    (tmp_path / "nvidia0").touch()
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  450.51.05  Sun Jun 28 2020\n"
    )
    monkeypatch.setattr(doctor_machine, "DEVICES", tmp_path)
    monkeypatch.setattr(doctor_machine, "DRIVER_VERSION", tmp_path / "version")
    monkeypatch.setattr(doctor_machine, "_cuda_of_torch", lambda: "12.8")
    assert "525.60" in found(home, "the driver is 450.51").fix
    monkeypatch.setattr(doctor_machine, "_cuda_of_torch", lambda: None)
    assert "CUDA builds" in found(home, "built without CUDA").fix


def test_a_variable_that_nothing_reads(home, monkeypatch):
    monkeypatch.setenv("LSQCTL_HOEM", "x")
    one = found(home, "LSQCTL_HOEM")
    assert "did you mean `LSQCTL_HOME`?" in one.message
    assert one.fix.startswith("unset LSQCTL_HOEM")


def test_a_data_folder_that_is_named_and_not_there(home, monkeypatch):
    monkeypatch.setenv("LSQCTL_DATA", str(home / "nowhere"))
    assert "lsqctl data fetch" in found(home, "nowhere").fix


def test_a_database_of_a_newer_schema_and_of_an_older_one_which_stays_as_it_is(home, store):
    sql(store, "UPDATE alembic_version SET version_num = '9999'")
    assert "newer lsqctl" in found(home, "schema 9999").fix
    store.close()
    path = home / "lsqctl.db"
    for file in home.glob("lsqctl.db*"):
        file.unlink()
    shutil.copy(ASSETS / "0001.db", path)
    one = found(home, "schema 0001")
    assert (one.level, one.fix.startswith("lsqctl db upgrade")) == ("warning", True)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]


def test_a_file_that_is_no_database(home):
    home.mkdir(mode=0o700)
    (home / "lsqctl.db").write_text("not a database, " * 100)
    assert "--db" in found(home, "not a database").fix


def test_a_damaged_database_is_a_finding_beside_all_others(home, store):
    submit(store, new("a"))
    store.close()
    path = home / "lsqctl.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    assert found(home, "malformed").level == "error"
    assert found(home, "Python 3")


def test_a_clock_that_is_not_this_machines(home, postgresql_url):  # noqa: F811
    with open_store(postgresql_url) as store:
        store._database.write(
            lambda db: [
                db.exec_driver_sql(one)
                for one in (
                    "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS"
                    " 'SELECT pg_catalog.clock_timestamp() + interval ''90 seconds'''",
                    f"ALTER DATABASE {store._database.url.database} "
                    "SET search_path = public, pg_catalog",
                )
            ]
        )
    one = found(home, "the database's clock", postgresql_url)
    assert "90 s ahead" in one.message
    assert "time server" in one.fix


def test_it_exits_with_1_only_on_an_error_and_json_has_every_fix(cli):
    cli("db", "upgrade")
    cli("doctor", LSQCTL_NONSENSE="1")
    (cli.folder / ".lsqctl").chmod(0o777)  # a found one is refused; a named one is examined
    assert "chmod go-w" in cli("doctor", code=4).stderr
    data = json.loads(cli("--home", ".lsqctl", "doctor", "--json", code=1).stdout)
    assert all(one["fix"] for one in data["findings"] if one["level"] != "ok")
