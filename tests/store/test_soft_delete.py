"""Laws of the trash, on both databases: what is removed comes back whole, or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from sqlalchemy import select

from lsqctl.errors import IllegalTransition, NotFound, StoreError, UsageError
from lsqctl.events import Metric
from lsqctl.run import EndReason, RunState
from lsqctl.services.removal import list_trash, move_to_trash, plan_removal, restore_runs
from lsqctl.settings import Settings
from lsqctl.store import Store
from lsqctl.store.soft_delete import RunRows
from lsqctl.store.tables import metadata
from tests.store.samples import checkpoint, new, result, submit, take


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
    gone = rows(store)
    assert not any(gone[name] for name in ("runs", "metric_points", "events", "results"))
    assert {one.id for one in list_trash(here)} == {a, b}
    restore_runs(store, here, [a, b])
    after = rows(store)
    more = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert set(more) == {"events"}
    assert all("'restored'" in row for row in more["events"])
    assert all(before[name] <= after[name] for name in before)
    assert (made / "attempt-1.log").read_text() == "log of " + a
    assert list_trash(here) == []
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
    assert list_trash(here) == []


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
    assert [one.id for one in list_trash(here)] == [run_id]


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -300])
def test_rows_that_were_cut_short_are_refused_and_none_comes_back(store: Store, here, cut) -> None:
    (run_id,) = submit(store, new("a"))
    remove(store, here, run_id)
    file = here.trash_dir / run_id / "rows.jsonl"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(StoreError, match=r"rows\.jsonl cannot be read"):
        restore_runs(store, here, [run_id])
    assert store.runs.list() == []


def test_rows_of_a_newer_schema_are_refused(store: Store) -> None:
    kept: list[RunRows] = []
    (run_id,) = submit(store, new("a"))
    store.trash.remove([run_id], keep=lambda _, rows: kept.append(rows))
    newer = {**kept[0], "runs": [{**kept[0]["runs"][0], "invented": 1}]}
    with pytest.raises(StoreError, match="newer lsqctl: runs has no invented"):
        store.trash.restore([newer])
    store.trash.restore(kept)
    assert [run.id for run in store.runs.list()] == [run_id]


def test_a_run_that_is_there_is_not_restored_over(store: Store, here) -> None:
    (run_id,) = submit(store, new("a"))
    remove(store, here, run_id)
    (entry,) = list_trash(here)
    rows_file = (here.trash_dir / run_id / "rows.jsonl").read_bytes()
    restore_runs(store, here, [run_id])
    (here.trash_dir / run_id).mkdir()
    (here.trash_dir / run_id / "rows.jsonl").write_bytes(rows_file)
    with pytest.raises(IllegalTransition, match="is there"):
        restore_runs(store, here, [run_id])
    assert dataclasses.replace(list_trash(here)[0], size_bytes=0) == dataclasses.replace(
        entry, size_bytes=0
    )
