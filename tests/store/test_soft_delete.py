"""Laws of the trash, on both databases: what is removed comes back whole, or not at all."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from lsqctl.errors import IllegalTransition, NotFound, StoreError, UsageError
from lsqctl.events import DEPLOYED, DeployedResult, Metric, QuantizerStats
from lsqctl.run import EndReason, RunState
from lsqctl.services.removal import list_trash, move_to_trash, plan_removal, restore_runs
from lsqctl.settings import Settings
from lsqctl.store import Store
from lsqctl.store.database import StorePart
from lsqctl.store.tables import metadata
from tests.conftest import tmpfs
from tests.store.samples import checkpoint, evaluation, new, result, submit, take


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", "", tmp_path / "data")


def rows(store: Store) -> dict[str, set[str]]:
    """All rows of the database; an event is the same whatever its number."""

    def read(db):
        return {
            table.name: {
                repr({k: v for k, v in row.items() if (table.name, k) != ("events", "id")})
                for row in db.execute(select(table)).mappings()
            }
            for table in metadata.sorted_tables
        }

    found: dict[str, set[str]] = store._database.read(read)
    return found


def finish(store: Store, value: float = 1.0) -> str:
    claim = take(store)
    metrics = [Metric("top1", "val", 10, value), Metric("loss", "train", 10, float("nan"))]
    store.checkpoints.record(claim.lease, checkpoint(10), metrics)
    store.queue.finish(claim.lease, result())
    return claim.run.id


def remove(store: Store, here: Settings, *ids: str, force: bool = False) -> None:
    move_to_trash(
        store, here, plan_removal(here, [store.runs.resolve(one) for one in ids]), force=force
    )


def folder(here: Settings, run_id: str) -> Path:
    made = here.run_dir(run_id)
    made.mkdir(parents=True)
    (made / "attempt-1.log").write_text("log of " + run_id)
    return made


def test_a_removed_run_comes_back_with_every_row_and_its_folder(store: Store, here) -> None:
    submit(store, new("a", sweep="s"), new("b", sweep="s", parents=["a"]))
    a, b = finish(store), finish(store)
    store.runs.update_tags(a, ["paper", "x"])
    store.runs.set_note(a, "né \x7f\n 'quoted'")
    made = folder(here, a)
    before = rows(store)
    remove(store, here, a, b)
    assert not made.exists()
    assert {run.id for run in list_trash(store, here)} == {a, b}
    restore_runs(store, here, [a, b])
    after = rows(store)
    more = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert set(more) == {"events"}
    assert all("'restored'" in row for row in more["events"])
    assert all(before[name] <= after[name] for name in before)
    assert (made / "attempt-1.log").read_text() == "log of " + a
    assert list_trash(store, here) == []
    assert store.maintenance.check() == []


def test_a_run_comes_back_among_those_that_came_after_it(store: Store, here) -> None:
    (a,) = submit(store, new("a"))
    finish(store)
    remove(store, here, a)
    submit(store, new("b"))
    b = finish(store)
    restore_runs(store, here, [a])
    assert [run.id for run in store.runs.list()] == [b, a]
    assert store.queue.claim("w1") is None


def test_a_waiting_run_is_queued_when_its_parent_succeeded_meanwhile(store: Store, here) -> None:
    _, child = submit(store, new("parent"), new("child", parents=["parent"]))
    remove(store, here, child)
    finish(store)
    restore_runs(store, here, [child])
    assert store.runs.detail(child).run.state is RunState.QUEUED
    assert take(store).run.id == child


def test_a_run_whose_parent_failed_or_is_gone_stays_in_the_trash_with_its_files(
    store: Store, here
) -> None:
    parent, child = submit(store, new("parent"), new("child", parents=["parent"]))
    folder(here, child)
    remove(store, here, child)
    remove(store, here, parent)
    with pytest.raises(IllegalTransition, match=f"restore or retry {parent} first"):
        restore_runs(store, here, [child])
    assert store.runs.list() == []
    assert not here.run_dir(child).exists()
    restore_runs(store, here, ["child", "parent"])
    assert {run.id: run.state for run in store.runs.list()} == {
        parent: RunState.QUEUED,
        child: RunState.WAITING,
    }
    assert (here.run_dir(child) / "attempt-1.log").exists()
    remove(store, here, child)
    store.queue.fail(take(store).lease, EndReason.DIVERGED, "NaN")
    with pytest.raises(IllegalTransition, match="or has failed"):
        restore_runs(store, here, [child])


def test_a_parent_removed_from_under_its_child_is_its_parent_again(store: Store, here) -> None:
    parent, child = submit(store, new("parent"), new("child", parents=["parent"]))
    finish(store)
    finish(store)
    remove(store, here, parent, force=True)
    assert store.runs.detail(child).parents == {}
    restore_runs(store, here, [parent])
    assert store.runs.detail(child).parents == {"role0": parent}


def test_a_running_run_is_not_buried_nor_any_file_of_it(store: Store, here) -> None:
    (run_id,) = submit(store, new("a"))
    take(store)
    made = folder(here, run_id)
    with pytest.raises(IllegalTransition, match="runs cancel"):
        remove(store, here, run_id, force=True)
    assert made.is_dir()
    assert list_trash(store, here) == []


def test_a_reference_is_an_id_its_beginning_or_a_name_and_must_be_one(store: Store, here) -> None:
    ids = submit(store, new("twin", seed=0), new("twin", seed=1), new("single"))
    remove(store, here, *ids)
    with pytest.raises(UsageError, match="is 2 runs in the trash"):
        restore_runs(store, here, ["twin"])
    with pytest.raises(NotFound, match="did you mean `single`"):
        restore_runs(store, here, ["singel"])
    assert [one.name for one in restore_runs(store, here, ["single"])] == ["single"]
    assert [one.id for one in restore_runs(store, here, [ids[0][:5]])] == [ids[0]]
    with pytest.raises(NotFound, match="runs trash"):
        restore_runs(store, here, [ids[0]])


def test_what_lies_in_the_way_is_not_written_over(store: Store, here) -> None:
    (run_id,) = submit(store, new("a"))
    folder(here, run_id)
    remove(store, here, run_id)
    made = folder(here, run_id)
    (made / "attempt-1.log").write_text("another")
    with pytest.raises(StoreError, match="in the way"):
        restore_runs(store, here, [run_id])
    assert (made / "attempt-1.log").read_text() == "another"
    assert [one.id for one in list_trash(store, here)] == [run_id]


def killed_at_the_second_file(work: Callable[[], object]) -> None:
    """Do something in a process that is killed where it copies a second file."""
    child = os.fork()
    if child:
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        return
    copyfile, copied = shutil.copyfile, []

    def until_the_second(*args, **options):
        copied.append(args)
        if len(copied) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return copyfile(*args, **options)

    try:
        shutil.copyfile = until_the_second
        work()
    finally:
        os._exit(0)


@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED: two file systems (needs root: mount)")
def test_a_kill_on_the_way_to_another_file_system_or_back_leaves_the_folder_whole(
    store: Store, here
) -> None:
    """As where `runs` is a link to a larger disk."""
    (run_id,) = submit(store, new("a"))
    with tmpfs(here.runs_dir, "1m"):
        made = folder(here, run_id)
        (made / "attempt-2.log").write_text("more")
        killed_at_the_second_file(lambda: remove(store, here, run_id))
        restore_runs(store, here, [run_id])
        assert len(list(made.iterdir())) == 2
        remove(store, here, run_id)
        assert list(here.runs_dir.iterdir()) == []
        killed_at_the_second_file(lambda: restore_runs(store, here, [run_id]))
        restore_runs(store, here, [run_id])
        assert len(list(made.iterdir())) == 2
    assert not (here.trash_dir / run_id).exists()


def test_a_run_that_is_not_in_the_trash_is_not_restored(store: Store) -> None:
    a, b = submit(store, new("a"), new("b"))
    store.trash.remove([a])
    for others in ([b], [a, b], [a, "unknown"]):
        with pytest.raises(NotFound, match="no run in the trash has the id"):
            store.trash.restore(others)
    assert [run.id for run in store.trash.list()] == [a]


def test_a_removed_run_is_not_claimed_nor_written_to(store: Store) -> None:
    (a,) = submit(store, new("a"))
    store.trash.remove([a])
    assert store.queue.claim("w1") is None
    commands: list[Callable[[], object]] = [
        lambda: store.runs.cancel(a),
        lambda: store.runs.retry(a),
        lambda: store.runs.hold(a),
        lambda: store.runs.prioritize(a, priority=1),
        lambda: store.runs.update_tags(a, ["x"]),
        lambda: store.runs.set_note(a, "x"),
        lambda: store.checkpoints.delete(a, ["ckpt-1"]),
        lambda: store.trash.remove([a]),
    ]
    for command in commands:
        with pytest.raises(NotFound):
            command()
    store.trash.restore([a])
    assert take(store).run.id == a


def test_a_parent_that_a_run_in_the_trash_would_start_from_is_not_purged(store: Store) -> None:
    parent, child = submit(store, new("parent"), new("child", parents=["parent"]))
    store.trash.remove([child])
    store.trash.remove([parent])
    with pytest.raises(IllegalTransition, match=f"child \\({child}\\) would start from"):
        store.trash.purge([parent], force=True)
    store.trash.purge([parent, child])
    assert store.trash.list() == []
    assert not any(values for name, values in rows(store).items() if name != "workers")


READS: dict[str, Callable[[Store, str], Any]] = {
    "queue.remaining": lambda s, _: s.queue.remaining(),
    "queue.overview": lambda s, _: replace(s.queue.overview(), now=None, workers=()),
    "queue.demand": lambda s, _: s.queue.demand("slurm"),
    "queue.health": lambda s, _: replace(s.queue.health(timedelta(0)), oldest_hours=0.0),
    "runs.list": lambda s, _: s.runs.list(),
    "runs.detail": lambda s, run_id: s.runs.detail(run_id),
    "runs.resolve": lambda s, run_id: s.runs.resolve(run_id),
    "runs.events": lambda s, run_id: s.runs.events(run_id),
    "runs.counts": lambda s, _: s.runs.counts(),
    "runs.statuses": lambda s, run_id: s.runs.statuses([run_id]),
    "runs.tags": lambda s, run_id: s.runs.tags([run_id]),
    "runs.preview": lambda s, _: s.runs.preview([new(name) for name in "fdhq"]),
    "metrics.points": lambda s, run_id: s.metrics.points(run_id),
    "metrics.summaries": lambda s, run_id: s.metrics.summaries(run_id),
    "metrics.quantizer_stats": lambda s, run_id: s.metrics.quantizer_stats(run_id),
    "metrics.training_start": lambda s, run_id: [*(s.metrics.training_start(run_id) or [])][:1],
    "checkpoints.list": lambda s, run_id: s.checkpoints.list(run_id),
    "checkpoints.directories": lambda s, _: s.checkpoints.directories(),
    "results.get": lambda s, run_id: s.results.get(run_id),
    "results.deployed": lambda s, run_id: s.results.deployed(run_id),
    "results.evaluations": lambda s, run_id: s.results.evaluations(run_id),
    "results.manifest_sha256": lambda s, run_id: s.results.manifest_sha256(run_id, ("raw", "last")),
    "results.per_image_results": lambda s, run_id: s.results.per_image_results([run_id]),
    "results.board_rows": lambda s, _: s.results.board_rows(),
    "sweeps.summaries": lambda s, _: [dict(summary.counts) for summary in s.sweeps.summaries()],
    "sweeps.cells": lambda s, _: [cell.run for cell in s.sweeps.cells("s")],
    "sweeps.run_ids": lambda s, _: s.sweeps.run_ids("s"),
    "transfer.finished": lambda s, _: s.transfer.finished(),
    "transfer.finished_with_parents": lambda s, run_id: s.transfer.finished_with_parents([run_id]),
    "maintenance.check": lambda s, _: s.maintenance.check(),
}
NOT_OF_RUNS = {
    "checkpoints.largest_bytes",  # one in the trash took as long to save
    "checkpoints.retention",  # a folder on its way to the trash is that of a run
    "maintenance.clock_skew",
    "rungs.next_rung",  # asked of a run at work
    "transfer.compare",  # one in the trash is there already
    "transfer.rows_of",  # asked of those that `transfer.finished` names
    "maintenance.schema_version",
    "sweeps.names",
    "trash.check_removable",
    "trash.list",
    "workers.list",
}


def ask(read: Callable[[Store, str], Any], store: Store, run_id: str) -> Any:
    try:
        return read(store, run_id)
    except NotFound:
        return NotFound


def ask_all(store: Store, run_ids: list[str]) -> dict[str, list[Any]]:
    """Return the answers of each read; one event more is a restoration's, and one read checks."""
    return {name: [ask(read, store, one) for one in run_ids] for name, read in READS.items()}


def test_every_read_of_every_part_is_in_the_table_above(store: Store) -> None:
    reads = {
        f"{part}.{name}"
        for part, value in vars(store).items()
        if isinstance(value, StorePart)
        for name, method in inspect.getmembers(type(value), inspect.isfunction)
        if not name.startswith("_") and "read_tx" in inspect.getsource(method)
    }
    assert reads | {"results.evaluations"} == READS.keys() | NOT_OF_RUNS


def test_no_read_shows_what_is_in_the_trash(store: Store) -> None:
    failed, done = submit(store, new("f", sweep="s"), new("d", sweep="s"))
    store.queue.fail(take(store).lease, EndReason.OOM, "too big")
    claim = take(store)
    store.metrics.start_at(claim.lease, 0)
    stats = QuantizerStats("q", "weight", 1, 10, 4, True, *[0.5] * 4, *[15] * 3)
    store.checkpoints.record(claim.lease, checkpoint(10), [Metric("top1", "val", 10, 1.0), stats])
    store.queue.finish(claim.lease, result())
    store.results.put_deployed(
        done, DeployedResult(evaluation(variant=DEPLOYED, headline=False), "exact", 9)
    )
    store.runs.update_tags(done, ["x"])
    held, queued = submit(store, new("h", sweep="s"), new("q", sweep="s"))
    store.runs.hold(held)
    removed = [failed, done, held, queued]
    shown = ask_all(store, removed)
    store.trash.remove(removed)
    hidden = ask_all(store, removed)
    store.trash.restore(removed)
    restored = ask_all(store, removed)
    store.trash.purge(removed)
    assert hidden == ask_all(store, removed)
    for name in READS.keys() - {"runs.events", "maintenance.check"}:
        assert hidden[name] != shown[name], name
        assert restored[name] == shown[name], name


OLD_TRASH = Path(__file__).parent.parent / "assets" / "trash"


def test_rows_that_an_older_version_kept_in_files_are_still_in_the_trash(
    store: Store, here
) -> None:
    """Written by the version before: a run with a result, and its child, lost three times."""
    shutil.copytree(OLD_TRASH, here.trash_dir)
    trashed = {run.name: run for run in list_trash(store, here)}
    assert {name: run.state for name, run in trashed.items()} == {
        "parent": RunState.SUCCEEDED,
        "child": RunState.FAILED,
    }
    assert not list(here.trash_dir.rglob("rows.jsonl"))
    assert store.runs.list() == []
    restore_runs(store, here, ["parent", "child"])
    parent, child = trashed["parent"].id, trashed["child"].id
    assert store.runs.detail(child).parents == {"role0": parent}
    assert store.runs.detail(child).run.priority == 7
    assert store.runs.detail(child).run.reason is EndReason.WORKER_LOST
    assert store.runs.detail(parent).attempts[0].environment == {"device": "cpu", "torch": "2"}
    assert store.runs.detail(parent).provenance == {"code_commit": "abc", "code_dirty": False}
    assert store.results.get(parent) == result()
    assert [point.value for point in store.metrics.points(parent)][1] == 1.0
    assert (here.run_dir(parent) / "attempt-1.log").read_text() == "log of " + parent
    assert store.maintenance.check() == []


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -300])
def test_rows_that_were_cut_short_are_refused_and_none_comes_back(store: Store, here, cut) -> None:
    shutil.copytree(OLD_TRASH, here.trash_dir)
    file = sorted(here.trash_dir.rglob("rows.jsonl"))[-1]
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(StoreError, match=r"rows\.jsonl cannot be read"):
        restore_runs(store, here, ["parent"])
    assert store.trash.list() == []
    assert len(list(here.trash_dir.rglob("rows.jsonl"))) == 2
