"""Laws of a bug report: nothing private is in it, it works where nothing else does, it is whole."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest
from sqlalchemy import make_url

from lsqctl.bundled import bundled
from lsqctl.run import EndReason, RunState, WorkerIdentity
from lsqctl.services import bugreport, doctor_machine
from lsqctl.store import open_store
from lsqctl.store.migrate import shipped_revisions
from lsqctl.worker.messages import log_path
from tests.made_up import fill
from tests.store.conftest import postgresql, postgresql_url  # noqa: F401 (fixtures)
from tests.store.samples import RECIPE, new, take

ASSETS = Path(__file__).parent.parent / "assets" / "db"
CANARY = "c4naryXq7"
ALWAYS = ["about.txt", "doctor.json", "machine.json", "queue.json", "settings.json"]
ALWAYS += ["versions.json"]
UNREACHABLE = f"postgresql+psycopg://me:{CANARY}@127.0.0.1:1/none"


@pytest.fixture
def report(here):
    """Write a report and return its members' texts; in none of its bytes is the canary."""

    def write(*words: str) -> dict[str, str]:
        here("bugreport", "-o", "r.zip", "--force", *words)
        members = opened(here.folder / "r.zip")
        assert CANARY.encode() not in (here.folder / "r.zip").read_bytes()
        for text in members.values():
            assert CANARY.lower() not in text.lower()
            assert text.endswith("\n")
        return members

    return write


def opened(path: Path) -> dict[str, str]:
    with ZipFile(path) as file:
        assert file.testzip() is None
        return {name: file.read(name).decode("ascii") for name in file.namelist()}


def findings(members: dict[str, str]) -> str:
    return "\n".join(one["message"] for one in json.loads(members["doctor.json"])["findings"])


def failed_run(url: str, home: Path) -> str:
    """Put a run into the store that failed, told secrets everywhere, and left a log."""
    identity = WorkerIdentity("w1", "w1", "workstation9", 1, 2.5, "boot", 1, "cpu")
    recipe = RECIPE | {"notes": f"the token is token={CANARY}", "weights": "/home/bob/x.pth"}
    wanted = replace(new("a"), recipe=recipe, provenance={"host": "otherhost", "data_dir": "/d"})
    with open_store(url) as store:
        store.workers.register(identity)
        (one,) = store.queue.enqueue([wanted])
        store.runs.set_note(one.run.id, f"hf_{CANARY}")
        claim = take(store)
        store.queue.log_event(claim.lease, f"went on with sk-{CANARY}")
        store.queue.fail(
            claim.lease, EndReason.CODE, f"cannot open s3://k:{CANARY}@h/x on otherhost"
        )
        path = log_path(home / "runs" / one.run.id, 1)
        path.parent.mkdir(parents=True)
        lines = [f"line {number}" for number in range(500)]
        lines += [f"\x1b[31mpassword\x1b[0m={CANARY}", f"-H 'Bearer {CANARY}'", "by Carol_X"]
        path.write_text("\n".join([f"first {CANARY}", *lines, f"AKIA{CANARY.upper()}1234", "end"]))
        return claim.lease.fence


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, here):
    if request.param == "sqlite":
        return f"sqlite:///{here.folder}/.lsqctl/lsqctl.db"
    plain = make_url(request.getfixturevalue("postgresql_url"))
    return plain.set(password=CANARY).render_as_string(hide_password=False)


@pytest.fixture
def private(here, monkeypatch):
    """A user, a host and a home with names, and an environment full of secrets."""
    home = here.folder / "people" / "carol_x"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", "carol_x")
    monkeypatch.setattr("platform.node", lambda: "workstation9")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{CANARY}+aws")
    monkeypatch.setenv("SLURM_JOB_TOKEN", f"{CANARY}+slurm")
    monkeypatch.setenv("SLURM_JOB_ACCOUNT", f"{CANARY}+account")
    monkeypatch.setenv("SLURM_NODELIST", f"{CANARY}[01-04]")
    monkeypatch.setenv("ANYTHING_AT_ALL", f"{CANARY}+any")
    monkeypatch.setenv("NCCL_DEBUG_FILE", f"{home}/nccl?token={CANARY}")
    monkeypatch.setenv("LSQCTL_NONSENSE", CANARY)
    return home


def test_no_secret_and_no_name_of_a_person_or_a_host_is_in_it(report, here, url, private):
    fence = failed_run(url, private / ".lsqctl")
    members = report("--db", url, "--home", str(private / ".lsqctl"), "--run", "@last")
    text = "\n".join(members.values())
    for name in ("carol_x", "Carol_X", "workstation9", "otherhost", "bob", fence):
        assert name not in text
    assert '"NCCL_DEBUG_FILE": "~/nccl?token=***"' in members["machine.json"]
    assert "SLURM_JOB_TOKEN" not in text
    assert json.loads(members["settings.json"])["home"]["value"] == "~/.lsqctl"
    run = json.loads(members["run.json"])
    assert run["recipe"]["notes"] == "the token is token=***"
    assert run["recipe"]["weights"] == "/home/<user>/x.pth"
    assert run["run"]["note"].endswith("***")
    assert run["provenance"]["host"] == "<host 2>"
    assert run["attempts"][0]["message"] == "cannot open s3://k:***@h/x on <host 2>"
    assert json.loads(members["queue.json"])["workers"][0]["host"] == "<host>"


def test_a_value_that_a_secret_variable_holds_goes_whatever_it_looks_like(
    report, here, private, monkeypatch
):
    fill(here.folder)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    here("runs", "note", "@last", "it said 0123456789abcdef and true")
    assert '"note": "it said *** and true"' in report("--run", "@last")["run.json"]


def test_a_run_comes_with_recipe_attempts_events_and_the_end_of_each_log(report, here):
    home = here.folder / ".lsqctl"
    failed_run(f"sqlite:///{home}/lsqctl.db", home)
    members = report("--run", "@last")
    assert list(members) == sorted([*ALWAYS, "attempt-1.log", "events.json", "run.json"])
    run = json.loads(members["run.json"])
    assert run["recipe"]["quant"] == {"weight_bits": 4, "act_bits": 3}
    assert run["attempts"][0]["reason"] == "code"
    kinds = [one["kind"] for one in json.loads(members["events.json"])]
    assert (kinds[0], kinds[-1]) == ("enqueued", "failed")
    log = members["attempt-1.log"].splitlines()
    assert (len(log), log[0], log[-1]) == (bugreport.MAX_LOG_LINES, "line 305", "end")
    assert log[-5:-1] == ["password=***", "-H 'Bearer ***'", "by Carol_X", "***"]


def test_a_log_is_cut_where_a_line_begins_and_one_that_is_elsewhere_is_said_to_be(report, here):
    home = here.folder / ".lsqctl"
    failed_run(f"sqlite:///{home}/lsqctl.db", home)
    (log,) = (home / "runs").glob("*/attempt-1.log")
    log.write_text(f"password={CANARY * 60_000}\nlast\x1b[2K\x9b words\n")
    assert report("--run", "@last")["attempt-1.log"] == "last\\x9b words\n"
    body = f"{CANARY}\n" * 300
    log.write_text(
        f"-----BEGIN PRIVATE KEY-----\n{body}-----END PRIVATE KEY-----\nlast\n"
    )  # it began before what is kept
    assert report("--run", "@last")["attempt-1.log"] == "***\nlast\n"
    log.unlink()
    assert "no log here" in report("--run", "@last")["attempt-1.log"]


def test_the_state_of_the_queue_is_in_it(report, here):
    fill(here.folder)
    queue = json.loads(report()["queue.json"])
    assert queue["schema"] == shipped_revisions(bundled("db"))[-1]
    counts = {state: count for state, count in queue["runs"].items() if count}
    assert counts == {"succeeded": 12, "failed": 1}
    assert len(queue["runs"]) == len(RunState)
    assert [one["name"] for one in queue["workers"]] == ["name"]


def test_it_works_without_a_workspace_and_makes_none(report, here):
    members = report()
    assert list(members) == ALWAYS
    assert "no workspace here" in json.loads(members["queue.json"])["unavailable"]
    assert "torch" in json.loads(members["versions.json"])["packages"]
    assert "commit " in members["versions.json"]
    assert "no workspace yet" in findings(members)
    assert [one.name for one in here.folder.iterdir()] == ["r.zip"]


def test_it_works_when_the_database_cannot_be_reached(report, here):
    members = report("--db", UNREACHABLE, "--run", "@last")
    assert list(members) == sorted([*ALWAYS, "run.json"])
    for name in ("queue.json", "run.json"):
        told = json.loads(members[name])["unavailable"]
        assert told.startswith("database postgresql+psycopg://me:***@127.0.0.1:1/none: ")
    assert "Connection refused" in findings(members)
    assert json.loads(members["settings.json"])["db_url"]["from"] == "--db"


@pytest.mark.parametrize("url", [f"mysql://me:{CANARY}@h/x", f"postgresql://me:{CANARY}", "what"])
def test_it_works_with_a_url_that_is_none(report, here, url):
    told = json.loads(report("--db", url)["queue.json"])["unavailable"]
    assert "postgresql+psycopg" in told


def test_it_works_with_a_file_that_is_no_database_and_with_a_damaged_one(report, here):
    home = here.folder / ".lsqctl"
    fill(here.folder)
    path = home / "lsqctl.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    members = report("--run", "@last")
    assert "malformed" in members["queue.json"] + members["run.json"]
    assert "malformed" in findings(members)
    assert "Python 3" in findings(members)
    path.write_text("not a database, " * 100)
    assert "not a database" in json.loads(report()["queue.json"])["unavailable"]


def test_an_older_database_stays_as_it_is(report, here):
    home = here.folder / ".lsqctl"
    home.mkdir(mode=0o700)
    shutil.copy(ASSETS / "0001.db", home / "lsqctl.db")
    assert "schema 0001" in json.loads(report()["queue.json"])["unavailable"]
    with closing(sqlite3.connect(home / "lsqctl.db")) as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]


def test_a_part_that_breaks_leaves_the_others_whole(report, here, monkeypatch):
    def break_down(_: object, **__: object) -> None:
        raise ValueError(f"'odd' is no state, token={CANARY}")

    fill(here.folder)
    monkeypatch.setattr(bugreport, "diagnose", break_down)
    members = report()
    told = {"unavailable": "ValueError: 'odd' is no state, token=***"}
    assert json.loads(members["doctor.json"]) == told
    assert "succeeded" in members["queue.json"]


def test_each_setting_says_where_it_comes_from(report, here, monkeypatch):
    monkeypatch.setenv("LSQCTL_DATA", str(here.folder))
    monkeypatch.setenv("LSQCTL_WARM", "0")
    found = json.loads(report("--home", "elsewhere")["settings.json"])
    assert {name: one["from"] for name, one in found.items()} == {
        "home": "--home",
        "db_url": "default",
        "data_dir": "LSQCTL_DATA",
        "lease_seconds": "default",
        "warm": "LSQCTL_WARM",
        "compile": "default",
    }
    assert found["warm"]["value"] is False


def test_two_reports_of_the_same_state_differ_only_in_the_time(here, monkeypatch):
    room = shutil.disk_usage(here.folder)
    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda _: room)
    fill(here.folder)
    first, second = here("bugreport", "--json"), here("bugreport", "-o", "b.zip", "--run", "@last")
    one = opened(Path(json.loads(first.stdout)["bugreport"]["path"]))
    two = opened(Path(second.stdout.strip()))
    about = [members.pop("about.txt").partition("\n")[2] for members in (one, two)]
    assert about[0] == about[1]
    assert one == {name: two[name] for name in one}
    with ZipFile("b.zip") as file:
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_it_says_where_the_file_is_what_is_in_it_and_to_look_first(here):
    done = here("bugreport")
    name = done.stdout.strip()
    assert name.startswith("lsqctl-bugreport-2")
    assert name.endswith("Z.zip")
    members = opened(here.folder / name)
    told = done.stderr.splitlines()
    assert told[:-1] == [f"  {each}, {len(text)} bytes" for each, text in members.items()]
    size = (here.folder / name).stat().st_size
    assert told[-1].startswith(f"6 files, {size} bytes zipped; read through them before you send")
    assert told[-1].endswith(f"unzip -c {name} | less")


def test_a_mistake_ends_in_one_line_and_writes_nothing(here):
    (here.folder / "mine.zip").write_text("precious")
    assert "--force" in here("bugreport", "-o", "mine.zip", code=2).stderr
    assert (here.folder / "mine.zip").read_text() == "precious"
    assert ".zip" in here("bugreport", "-o", "mine.txt", "--force", code=2).stderr
    assert "cannot write" in here("bugreport", "-o", "none/r.zip", code=2).stderr
    assert "no workspace here" in here("bugreport", "--run", "@last", code=3).stderr
    fill(here.folder)
    assert "zzzzzzzz" in here("bugreport", "--run", "zzzzzzzz", code=3).stderr
    assert sorted(one.name for one in here.folder.iterdir()) == [".lsqctl", "mine.zip"]
