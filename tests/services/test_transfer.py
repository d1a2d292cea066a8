"""Runs that go to another workspace: whole, once, never from a file that is not what it says."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lsqctl.errors import DataError, IllegalTransition, NotFound, UsageError
from lsqctl.run import RunState
from lsqctl.services.transfer import export_runs, import_runs, merge_workspace
from lsqctl.services.workspace import open_workspace
from lsqctl.settings import Settings, sqlite_url
from lsqctl.store import Store
from tests.conftest import TINY, CommandLine

CHILD = TINY.replace("epochs: 2", "epochs: 1").replace("resnet8", "resnet8, weights: {run: p}")


def workspace(home: Path) -> Settings:
    return Settings(home, sqlite_url(home / "lsqctl.db"), home / "data", lease_seconds=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A workspace with a parent and its child, trained, and one queued run."""
    cli = CommandLine(tmp_path_factory.mktemp("trained"))
    cli.write("p.yaml", TINY.replace("epochs: 2", "epochs: 1"))
    cli.write("c.yaml", CHILD)
    cli("run", "c.yaml")
    cli("runs", "tag", "c", "+mine")
    cli("submit", "p.yaml", "--seed", "7", "--hold")
    return cli


@pytest.fixture
def theirs(trained: CommandLine) -> Settings:
    return workspace(trained.folder / ".lsqctl")


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
        points = store.metrics.points(run.id)
        found[run.id] = (run, detail.recipe, detail.provenance, detail.parents, detail.attempts)
        found[run.id] += (points, store.runs.tags([run.id]), logs)
        found[run.id] += ([(e.n_correct, e.hits) for e in store.results.evaluations(run.id)],)
    return found


@pytest.fixture(scope="module")
def exported(trained: CommandLine) -> Path:
    path = trained.folder / "both.lsq"
    settings = workspace(trained.folder / ".lsqctl")
    with open_workspace(settings) as store:
        report = export_runs(store, settings, ["c"], path, checkpoints=True)
    assert (len(report.runs), len(report.parents)) == (1, 1)
    return path


def test_an_export_is_taken_in_whole_and_once_with_its_parents_and_verified(
    exported: Path, theirs: Settings, ours: Settings, trained: CommandLine
) -> None:
    with open_workspace(theirs) as source, open_workspace(ours) as target:
        first = import_runs(target, ours, exported)
        again = import_runs(target, ours, exported)
        assert (len(first.imported), len(first.existing)) == (2, 0)
        assert (len(again.imported), len(again.existing)) == (0, 2)
        assert everything(target, ours) == everything(source, theirs)
        assert target.maintenance.check() == []
        child = target.runs.resolve("c")
        assert [e.kind for e in target.runs.events(child.id)][-1] == "imported"
        for kept in target.checkpoints.list(child.id):
            assert Path(kept.directory).parent == ours.run_dir(child.id)
    verified = trained("--home", str(ours.home), "verify", child.id)
    assert "verified" in verified.stdout + verified.stderr


def test_only_finished_runs_are_exported_and_no_file_is_overwritten_unasked(
    exported: Path, theirs: Settings
) -> None:
    with open_workspace(theirs) as store:
        held = next(run for run in store.runs.list() if run.held)
        with pytest.raises(IllegalTransition, match="only finished ones are exported"):
            export_runs(store, theirs, [held.id], exported.with_name("held.lsq"))
        with pytest.raises(UsageError, match="--force overwrites it"):
            export_runs(store, theirs, ["c"], exported)
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
        for path in (cut, other, tmp_path / "none.lsq"):
            with pytest.raises(DataError):
                import_runs(store, ours, path)
        assert store.runs.list() == []


def test_an_import_that_is_killed_leaves_no_run_and_is_done_by_the_next(
    exported: Path, cli: CommandLine
) -> None:
    for moment in ("import.before-move", "import.before-commit"):
        cli("runs", "import", str(exported), code=-9, LSQCTL_FAILPOINT=f"{moment}:kill")
        assert json.loads(cli("runs", "ls", "--json").stdout)["runs"] == []
    done = cli("runs", "import", str(exported))
    assert len(done.stdout.split()) == 2
    cli("db", "check")


def test_a_workspace_is_merged_and_what_clashes_is_listed_and_stops_it(
    theirs: Settings, ours: Settings, cli: CommandLine
) -> None:
    with open_workspace(ours) as store:
        planned = merge_workspace(store, ours, theirs.home, dry_run=True)
        assert (len(planned.imported), planned.unfinished) == (2, 1)
        assert store.runs.list() == []
        done = merge_workspace(store, ours, theirs.home)
        with open_workspace(theirs) as source:
            assert everything(store, ours) == everything(source, theirs)
        assert merge_workspace(store, ours, theirs.home).existing == tuple(done.imported)
        child = store.runs.resolve("c").id
        store.trash.remove([child])
        clashing = merge_workspace(store, ours, theirs.home)
        assert clashing.imported == ()
        assert clashing.clashes == {child: "it is in the trash; `lsqctl runs restore` first"}
        with pytest.raises(NotFound):
            merge_workspace(store, ours, ours.home / "runs")
        with pytest.raises(UsageError):
            merge_workspace(store, ours, ours.home)
    refused = cli("--home", str(ours.home), "db", "merge", str(theirs.home), code=None)
    assert refused.returncode != 0
    assert f"{child}: it is in the trash" in refused.stderr
