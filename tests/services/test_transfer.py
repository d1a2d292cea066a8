"""Runs that go to another workspace: whole, once, never from a file that is not what it says."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest

from lsqctl.errors import (
    DataError,
    IllegalTransition,
    LsqctlError,
    NotFound,
    StoreError,
    UsageError,
)
from lsqctl.events import Checkpoint, Metric
from lsqctl.leaderboard.published_results import PublishedResult
from lsqctl.run import RunState
from lsqctl.services.import_staging import staging_folder
from lsqctl.services.published_results import add_published_result, load_workspace_results
from lsqctl.services.transfer import export_runs, import_runs, merge_workspace
from lsqctl.services.workspace import open_workspace
from lsqctl.settings import Settings, sqlite_url
from lsqctl.store import Store
from tests.conftest import FULL, TINY, CommandLine, no_locks
from tests.inside import Here
from tests.store.samples import evaluation, identity, new, result, submit, take

CHILD = TINY.replace("epochs: 2", "epochs: 1").replace("resnet8", "resnet8, weights: {run: p}")


def workspace(home: Path) -> Settings:
    return Settings(home, sqlite_url(home / "lsqctl.db"), home / "data", lease_seconds=1)


def finish(store: Store, settings: Settings) -> None:
    """Work the next run as a worker would: metrics, a log, a checkpoint, a result."""
    claim = take(store)
    run_dir = settings.run_dir(claim.run.id)
    folder = run_dir / "ckpt-000000010-best"
    folder.mkdir(parents=True)
    (run_dir / "attempt-1.log").write_text("epoch 1/1\n")
    (folder / "model.pt").write_bytes(bytes(range(256)))
    store.metrics.log(claim.lease, [Metric("top1", "test", 10, 90.0), Metric("x", "y", 1, nan)])
    store.checkpoints.record(claim.lease, Checkpoint(10, 1, folder, "sha", 256, True))
    counted = evaluation(checkpoint=str(folder))
    store.queue.finish(claim.lease, replace(result(), evaluations=(counted,)))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A workspace with a parent and its child, both done, and a held run."""
    settings = workspace(tmp_path_factory.mktemp("others") / ".lsqctl")
    with open_workspace(settings, create=True) as store:
        store.workers.register(identity("w1"))
        submit(store, new("p"), new("c", parents=["p"], sweep="s", cell="a", tags=("mine",)))
        finish(store, settings)
        finish(store, settings)
        submit(store, new("held", held=True))
    return settings


@pytest.fixture
def ours(tmp_path: Path) -> Settings:
    settings = workspace(tmp_path / "ours")
    open_workspace(settings, create=True).close()
    return settings


def everything(store: Store, settings: Settings) -> dict[str, Any]:
    """All that two workspaces must have in common, by run."""
    found = {}
    for run in store.runs.list(states=[RunState.SUCCEEDED]):
        detail = store.runs.detail(run.id)
        logs = {path.name: path.read_bytes() for path in settings.run_dir(run.id).glob("*.log")}
        points = [(p.name, p.split, p.step, repr(p.value)) for p in store.metrics.points(run.id)]
        found[run.id] = (run, detail.recipe, detail.provenance, detail.parents, detail.attempts)
        found[run.id] += (points, store.runs.tags([run.id]), logs)
        found[run.id] += ([(e.n_correct, e.hits) for e in store.results.evaluations(run.id)],)
    return found


@pytest.fixture(scope="module")
def exported(others: Settings) -> Path:
    path = others.home.parent / "both.lsq"
    with open_workspace(others) as store:
        report = export_runs(store, others, ["c"], path, checkpoints=True)
    assert (len(report.runs), len(report.parents)) == (1, 1)
    return path


def test_an_export_is_taken_in_whole_and_once_with_its_parents(
    exported: Path, others: Settings, ours: Settings
) -> None:
    with open_workspace(others) as source, open_workspace(ours) as target:
        first = import_runs(target, ours, exported)
        again = import_runs(target, ours, exported)
        assert (len(first.imported), len(first.existing)) == (2, 0)
        assert (len(again.imported), len(again.existing)) == (0, 2)
        assert everything(target, ours) == everything(source, others)
        assert target.maintenance.check() == []
        child = target.runs.resolve("c")
        assert [e.kind for e in target.runs.events(child.id)][-1] == "imported"
        assert [cell.run and cell.run.id for cell in target.sweeps.cells("s")] == [child.id]
        (kept,) = target.checkpoints.list(child.id)
        assert Path(kept.directory).parent == ours.run_dir(child.id)
        assert (Path(kept.directory) / "model.pt").read_bytes() == bytes(range(256))


def test_without_checkpoints_nothing_says_that_there_are_some(
    others: Settings, ours: Settings, tmp_path: Path
) -> None:
    with open_workspace(others) as source, open_workspace(ours) as target:
        export_runs(source, others, ["p"], tmp_path / "p.lsq")
        (run_id,) = import_runs(target, ours, tmp_path / "p.lsq").imported
        assert target.checkpoints.list(run_id) == []
        assert [path.name for path in ours.run_dir(run_id).iterdir()] == ["attempt-1.log"]


@pytest.mark.slow
@pytest.mark.skipif(not FULL, reason="make test-full trains, exports, imports and verifies")
def test_what_was_trained_and_taken_in_is_verified_from_its_checkpoints(cli: CommandLine) -> None:
    cli.write("p.yaml", TINY.replace("epochs: 2", "epochs: 1"))
    cli.write("c.yaml", CHILD)
    cli("run", "c.yaml")
    cli("runs", "export", "c", "both.lsq", "--checkpoints")
    cli("--home", "ours", "runs", "import", "both.lsq")
    for name in ("p", "c"):
        verified = cli("--home", "ours", "verify", name)
        assert "verified" in verified.stdout + verified.stderr


def test_only_finished_runs_are_exported_and_no_file_is_overwritten_unasked(
    exported: Path, others: Settings
) -> None:
    with open_workspace(others) as store:
        held = next(run for run in store.runs.list() if run.held)
        with pytest.raises(IllegalTransition, match="only finished ones are exported"):
            export_runs(store, others, [held.id], exported.with_name("held.lsq"))
        with pytest.raises(UsageError, match="--force overwrites it"):
            export_runs(store, others, ["c"], exported)
        for way in (exported.parent, Path(".")):
            with pytest.raises(UsageError, match="not a plain file"):
                export_runs(store, others, ["c"], way, force=True)
        with pytest.raises(UsageError, match="cannot write"):
            export_runs(store, others, ["c"], exported.with_name("none") / "c.lsq")
    assert not exported.with_name("held.lsq").exists()
    assert list(exported.parent.glob(".*.tmp")) == []


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Return a copy of a file of exported runs with its members changed, hashes as they were."""
    with zipfile.ZipFile(source) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as written:
        for name, data in members.items():
            written.writestr(name, data)
    return target


def rows_member(members: dict[str, bytes]) -> str:
    return next(name for name in members if name.startswith("runs/"))


def flip(members: dict[str, bytes]) -> None:
    name = next(name for name in members if name.endswith("model.pt"))
    members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])


def with_manifest(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def apply(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        change(manifest)
        members["manifest.json"] = json.dumps(manifest).encode()

    return apply


def with_rows(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    """Change the rows of a run, and its hash with them, as an attacker would."""

    def apply(members: dict[str, bytes]) -> None:
        import hashlib

        name = rows_member(members)
        rows = json.loads(members[name])
        change(rows)
        members[name] = json.dumps(rows).encode()
        manifest = json.loads(members["manifest.json"])
        digest = hashlib.sha256(members[name]).hexdigest()
        manifest["files"][name] = {"size": len(members[name]), "sha256": digest}
        members["manifest.json"] = json.dumps(manifest).encode()

    return apply


def planted(name: str) -> Callable[[dict[str, bytes]], None]:
    def apply(members: dict[str, bytes]) -> None:
        members[name] = b"x"
        digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
        entry = {name: {"size": 1, "sha256": digest}}
        with_manifest(lambda manifest: manifest["files"].update(entry))(members)

    return apply


BAD: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "a flipped bit": (flip, "is not as it was written"),
    "a member left out": (lambda m: m.pop(rows_member(m)), "not those that its manifest lists"),
    "a member too many": (lambda m: m.update({"x": b""}), "not those that its manifest lists"),
    "no manifest": (lambda m: m.pop("manifest.json"), "is no file of `lsqctl runs export`"),
    "a newer format": (with_manifest(lambda m: m.update(format=2)), "upgrade it"),
    "a newer schema": (with_manifest(lambda m: m.update(schema="9999")), "upgrade it"),
    "a path above": (planted("files/23456789/../../x"), "is no file of a run; refused"),
    "an absolute path": (planted("/etc/x"), "is no file of a run; refused"),
    "two dots in a name": (planted("files/23456789/a..b"), "is no file of a run; refused"),
    "files of nobody": (planted("files/23456789/x.log"), "files of a run that it has no rows of"),
    "a row of another run": (
        with_rows(lambda rows: rows["attempts"][0].update(run_id="23456789")),
        "a row of another run",
    ),
    "an unfinished run": (
        with_rows(lambda rows: rows["runs"][0].update(state="running")),
        "or of one that is unfinished",
    ),
    "a table of nobody": (with_rows(lambda rows: rows.update(x=[])), "not those of a run"),
    "a column of nobody": (
        with_rows(lambda rows: rows["runs"][0].update(x=1)),
        "no column is called `x`",
    ),
    "a number as text": (
        with_rows(lambda rows: rows["runs"][0].update(seed="0")),
        "`seed` holds what it cannot",
    ),
    "a name of control letters": (
        with_rows(lambda rows: rows["runs"][0].update(name="a\x1b[2J")),
        "is not that of a run",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_is_not_what_it_says_is_refused_in_one_line_and_nothing_is_taken_in(
    exported: Path, ours: Settings, tmp_path: Path, what: str
) -> None:
    change, said = BAD[what]
    bad = rewritten(exported, tmp_path / "bad.lsq", lambda members: void(change(members)))
    with open_workspace(ours) as store:
        with pytest.raises(DataError) as caught:
            import_runs(store, ours, bad)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        assert store.runs.list() == []
    assert list(ours.runs_dir.iterdir()) == []


def void(_: object) -> None:
    """Take what a lambda returns."""


def test_a_file_that_is_no_zip_or_is_cut_off_is_refused(
    exported: Path, ours: Settings, tmp_path: Path
) -> None:
    cut, other = tmp_path / "cut.lsq", tmp_path / "other.lsq"
    cut.write_bytes(exported.read_bytes()[:-100])
    other.write_text("not a zip")
    with open_workspace(ours) as store:
        for path in (cut, other):
            with pytest.raises(DataError):
                import_runs(store, ours, path)
        with pytest.raises(NotFound):
            import_runs(store, ours, tmp_path / "none.lsq")
        assert store.runs.list() == []


def test_a_pipe_is_refused_and_not_waited_for(here: Here) -> None:
    os.mkfifo(here.folder / "pipe.lsq")
    assert "no plain file" in here("runs", "import", "pipe.lsq", code=1).stderr


def test_what_does_not_fit_on_the_disk_is_refused_before_it_is_unpacked(
    exported: Path, ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = shutil.disk_usage(ours.home)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    with open_workspace(ours) as store:
        with pytest.raises(StoreError, match=r"do not fit on the disk.*100 B left"):
            import_runs(store, ours, exported)
        assert store.runs.list() == []
    assert list(ours.runs_dir.iterdir()) == []


def test_where_the_database_takes_no_row_no_folder_stays(exported: Path, ours: Settings) -> None:
    refuse = "CREATE TRIGGER no BEFORE INSERT ON run_parents BEGIN SELECT RAISE(ABORT, 'no'); END"
    with sqlite3.connect(ours.home / "lsqctl.db") as db:
        db.execute(refuse)
    db.close()
    with open_workspace(ours) as store:
        with pytest.raises(LsqctlError):
            import_runs(store, ours, exported)
        assert store.runs.list() == []
    assert list(ours.runs_dir.iterdir()) == []


def test_a_link_in_a_runs_folder_is_not_exported(others: Settings, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with open_workspace(others) as store:
        link = others.run_dir(store.runs.resolve("p").id) / "more.log"
        link.symlink_to(tmp_path / "secret")
        try:
            export_runs(store, others, ["p"], tmp_path / "p.lsq", checkpoints=True)
        finally:
            link.unlink()
    with zipfile.ZipFile(tmp_path / "p.lsq") as opened:
        assert not [name for name in opened.namelist() if "more" in name]


def test_an_import_that_is_killed_leaves_no_run_and_is_done_by_the_next(
    exported: Path, cli: CommandLine
) -> None:
    for moment in ("import.before-move", "import.before-commit"):
        cli("runs", "import", str(exported), code=-9, LSQCTL_FAILPOINT=f"{moment}:kill")
        assert json.loads(cli("runs", "ls", "--json").stdout)["runs"] == []
    done = cli("runs", "import", str(exported))
    assert sorted(done.stdout.split()) == sorted(
        path.name for path in (cli.folder / ".lsqctl" / "runs").iterdir()
    )
    cli("db", "check")


def test_a_workspace_is_merged_and_what_clashes_is_listed_and_stops_it(
    others: Settings, ours: Settings, cli: CommandLine
) -> None:
    with open_workspace(ours) as store:
        planned = merge_workspace(store, ours, others.home, dry_run=True)
        assert (len(planned.imported), planned.unfinished) == (2, 1)
        assert store.runs.list() == []
        done = merge_workspace(store, ours, others.home)
        with open_workspace(others) as source:
            assert everything(store, ours) == everything(source, others)
        assert merge_workspace(store, ours, others.home).existing == tuple(done.imported)
        child = store.runs.resolve("c").id
        store.trash.remove([child])
        add_published_result(others, published("theirs", 1.0))
        clashing = merge_workspace(store, ours, others.home)
        others.published_results_file.unlink()
        assert load_workspace_results(ours).published == ()
        assert clashing.imported == ()
        assert clashing.clashes == {child: "it is in the trash; `lsqctl runs restore` first"}
        with pytest.raises(NotFound):
            merge_workspace(store, ours, ours.home / "runs")
        with pytest.raises(UsageError):
            merge_workspace(store, ours, ours.home)
    refused = cli("--home", str(ours.home), "db", "merge", str(others.home), code=None)
    assert refused.returncode != 0
    assert f"{child}: it is in the trash" in refused.stderr


def test_no_workspace_is_made_for_what_cannot_be_taken_in(here: Here) -> None:
    (here.folder / "foreign.lsq").write_text("no zip")
    assert "no file of `lsqctl runs export`" in here("runs", "import", "foreign.lsq", code=1).stderr
    assert "is no workspace" in here("db", "merge", "elsewhere", code=3).stderr
    assert not (here.folder / ".lsqctl" / "lsqctl.db").exists()


def published(model: str, top1: float) -> PublishedResult:
    return PublishedResult(
        dataset="cifar10", model=model, arch="", method="", weight_bits=4, act_bits=4, top1=top1,
        source_kind="page", source_url="https://example.org", quote="W4A4",
    )  # fmt: skip


def test_published_rows_come_along_and_what_is_left_out_is_listed_with_its_reason(
    here: Here, tmp_path: Path
) -> None:
    theirs, ours = workspace(tmp_path / "theirs"), workspace(tmp_path / ".lsqctl")
    for settings, rows in ((theirs, {"new": 1.0, "same": 2.0, "other": 3.0}),
                           (ours, {"same": 2.0, "other": 4.0})):  # fmt: skip
        with open_workspace(settings, create=True) as store:
            submit(store, new(f"of {settings.home.name.strip('.')}"))
        for model, top1 in rows.items():
            add_published_result(settings, published(model, top1))
        settings.plugins_dir.mkdir()
        (settings.plugins_dir / "shared.py").write_text("'''The same.'''\n")
        (settings.plugins_dir / "nets.py").write_text(f"'''{settings.home.name}'''\n")
    (theirs.plugins_dir / "data.py").write_text("'''Not here.'''\n")
    for settings in (theirs, ours):
        (settings.home / "cluster.toml").write_text("# the same\n")
    (theirs.home / "workspace.toml").write_text('[on_end]\nwebhook = "https://a.org/secret"\n')
    (theirs.trash_dir / "0001").mkdir(parents=True)
    (theirs.trash_dir / "0001" / "rows.jsonl").write_text("")
    with open_workspace(theirs) as store:
        store.trash.remove(submit(store, new("removed")))
    planned = json.loads(here("db", "merge", str(theirs.home), "--dry-run", "--json").stdout)
    assert len(load_workspace_results(ours).published) == 2
    told = here("db", "merge", str(theirs.home)).stderr.splitlines()[1:]  # after the store
    assert "0 runs and 1 published row taken in" in told[-1]
    assert [line.partition(": ")[0] for line in told[:-1]] == ["left out"] * 7
    assert "secret" not in "".join(told)
    assert len(planned["transfer"]["left_out"]) == 7
    expected = ("workspace.toml has trackers, launcher and hooks: read it",
                "data.py is code: read it", "nets.py is another one here",
                "other of cifar10 is here with other values", "(of theirs) is queued there",
                "(removed) is in the trash there", "run 0001 is in the trash there")  # fmt: skip
    for line, words in zip(told, expected, strict=False):
        assert words in line
    here_now = {row.model: row.top1 for row in load_workspace_results(ours).published}
    assert here_now == {"same": 2.0, "other": 4.0, "new": 1.0}
    assert "published row" not in here("db", "merge", str(theirs.home)).stderr.splitlines()[-1]


def test_what_stays_behind_is_told_before_anything_is_taken_in(
    others: Settings, ours: Settings
) -> None:
    told = []
    with open_workspace(ours) as store:
        merge_workspace(
            store, ours, others.home, on_left_out=lambda it: told.append((it, store.runs.list()))
        )
        ((left_out, taken_in),) = told
        assert "is queued there" in "".join(left_out.values())
        assert taken_in == []
        assert len(store.runs.list()) == 2


def test_a_workspace_whose_published_rows_do_not_read_gives_nothing(
    others: Settings, ours: Settings
) -> None:
    others.published_results_file.write_text("{\n")
    try:
        with open_workspace(ours) as store:
            with pytest.raises(DataError, match=f"{others.published_results_file}:1"):
                merge_workspace(store, ours, others.home)
            assert store.runs.list() == []
    finally:
        others.published_results_file.unlink()


def test_what_is_here_already_needs_no_room(
    exported: Path, ours: Settings, others: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_workspace(ours) as store:
        import_runs(store, ours, exported)
        room = shutil.disk_usage(ours.home)._replace(free=0)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
        assert import_runs(store, ours, exported).imported == ()
        assert merge_workspace(store, ours, others.home).imported == ()


def test_a_file_that_somebody_put_into_a_runs_folder_does_not_spoil_the_export(
    others: Settings, ours: Settings, tmp_path: Path
) -> None:
    with open_workspace(others) as store:
        run = store.runs.list(states=[RunState.SUCCEEDED])[0]
        strays = [others.run_dir(run.id) / name for name in ("my notes.log", ".x.log")]
        for stray in strays:
            stray.write_text("mine")
        export_runs(store, others, [run.id], tmp_path / "out.lsq")
        for stray in strays:
            stray.unlink()
    with open_workspace(ours) as store:
        assert run.id in import_runs(store, ours, tmp_path / "out.lsq").imported


def test_an_import_at_work_keeps_what_it_has_laid_out_whoever_else_imports(
    exported: Path, ours: Settings
) -> None:
    """Also one in another container, whose processes nobody here can see."""
    at_work, cut_off = (ours.runs_dir / f".import-{name}" for name in ("1", "2"))
    for folder in (at_work, cut_off):
        (folder / "run").mkdir(parents=True)
    descriptor = os.open(at_work, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with open_workspace(ours) as store:
            assert len(import_runs(store, ours, exported).imported) == 2
    finally:
        os.close(descriptor)
    assert [one.name for one in ours.runs_dir.glob(".import-*")] == [at_work.name]


def test_where_the_file_system_has_no_locks_imports_work_and_what_they_left_goes_a_day_later(
    exported: Path, ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    at_work, cut_off = (ours.runs_dir / f".import-{name}" for name in ("1", "2"))
    for folder in (at_work, cut_off):
        folder.mkdir()
    os.utime(cut_off, (time.time() - 25 * 3600,) * 2)
    with open_workspace(ours) as store:
        assert len(import_runs(store, ours, exported).imported) == 2
    assert [one.name for one in ours.runs_dir.glob(".import-*")] == [at_work.name]


def test_an_import_that_sleeps_while_another_takes_in_the_same_runs_leaves_them_their_files(
    exported: Path, others: Settings, ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_import(name: str) -> None:
        monkeypatch.undo()
        if name == "import.before-move":
            with open_workspace(ours) as faster:
                assert len(import_runs(faster, ours, exported).imported) == 2

    with open_workspace(ours) as store:
        monkeypatch.setattr("lsqctl.services.transfer.failpoint", other_import)
        late = import_runs(store, ours, exported)
        assert (len(late.imported), len(late.existing)) == (0, 2)
        with open_workspace(others) as source:
            assert everything(store, ours) == everything(source, others)
        for run in store.runs.list():
            (kept,) = store.checkpoints.list(run.id)
            assert (Path(kept.directory) / "model.pt").read_bytes() == bytes(range(256))
    assert list(ours.runs_dir.glob(".import-*")) == []


def test_imports_that_begin_at_once_take_no_folder_away_from_each_other(tmp_path: Path) -> None:
    def lay_out(_: int) -> None:
        with staging_folder(tmp_path / "runs") as folder:
            (folder / "files").mkdir()
            assert list(folder.iterdir()) == [folder / "files"]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lay_out, range(400)))
    assert list((tmp_path / "runs").iterdir()) == []
