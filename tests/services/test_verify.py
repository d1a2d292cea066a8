"""A result is called verified when hash-checked bytes give the same answer for every image."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sqlalchemy import update

import lsqctl
from lsqctl.errors import NotFound
from lsqctl.run import RunState
from lsqctl.services.verify import runs_to_verify, verify_run
from lsqctl.settings import Settings
from lsqctl.store import open_store
from lsqctl.store.tables import attempts, results
from tests.conftest import TINY, CommandLine

QUANT = "quant: {weight_bits: 4, act_bits: 4}\n"
# so steep that the first epoch is the better one: `best` and `last` are two checkpoints
STEEP = TINY.replace("lr: 0.1", "lr: 0.05").replace(
    "epochs: 2", "epochs: 3, ema_decay: 0.9, bn_reestimate_images: 300"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workspace with a quantized run that succeeded, and one that is only queued."""
    line = CommandLine(tmp_path_factory.mktemp("trained"))
    line.write("tiny.yaml", STEEP + QUANT)
    line("submit", "tiny.yaml")
    line("worker", "--until-empty")
    line("submit", "tiny.yaml", "--seed", "7")
    return line.folder


@pytest.fixture
def here(trained, tmp_path):
    """A copy of that workspace, moved to another folder: settings and open store."""
    home = tmp_path / "moved"
    shutil.copytree(trained / ".lsqctl", home)
    settings = Settings(home, f"sqlite:///{home / 'lsqctl.db'}", home / "data")
    with open_store(settings.db_url) as store:
        yield settings, store


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)


def succeeded(store):
    (run,) = store.runs.list(states=[RunState.SUCCEEDED])
    return run


def verify(here, **options):
    settings, store = here
    return list(verify_run(store, settings, succeeded(store).id, **options))


def shown(here):
    (row,) = [row for row in here[1].results.board_rows() if row.state is RunState.SUCCEEDED]
    return row.verified


def last_checkpoint(here):
    settings, store = here
    return sorted(settings.run_dir(succeeded(store).id).glob("ckpt-*"))[-1]


def test_a_result_measured_again_is_equal_and_the_board_says_so(here):
    assert shown(here) is None
    verdicts = verify(here)
    assert [(one.variant, one.selection) for one in verdicts] == [
        *[("bn", "last"), ("ema", "best"), ("ema", "last"), ("raw", "best"), ("raw", "last")]
    ]
    assert len({one.n_correct for one in verdicts if one.selection == "last"}) == 3
    assert all(one.verified and one.measured == one.n_correct for one in verdicts)
    assert shown(here) is True


def test_each_flipped_bit_is_found_and_its_file_named_with_what_was_expected(here):
    folder = last_checkpoint(here)
    files = sorted(folder.iterdir())
    assert {path.name for path in files} >= {"manifest.json", "model.pt", "training.pt"}
    for path in files:
        good = path.read_bytes()
        place = len(good) // 2
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        (last,) = [one for one in verify(here) if (one.variant, one.selection) == ("raw", "last")]
        assert last.verified is False
        assert str(path) in last.message
        assert "\n" not in last.message
        assert shown(here) is False
        path.write_bytes(good)
    assert all(one.verified for one in verify(here))
    assert shown(here) is True


def test_a_missing_file_and_a_replaced_checkpoint_are_named(here):
    folder = last_checkpoint(here)
    (earlier,) = [one for one in folder.parent.glob("ckpt-*") if one != folder][:1]
    shutil.copytree(folder, folder.with_name("kept"))
    shutil.rmtree(folder)
    shutil.copytree(earlier, folder)
    (last,) = [one for one in verify(here) if (one.variant, one.selection) == ("raw", "last")]
    assert last.verified is False
    assert f"{folder / 'manifest.json'} is of another checkpoint" in last.message
    shutil.rmtree(folder)
    folder.with_name("kept").rename(folder)
    (folder / "model.pt").unlink()
    (last,) = [one for one in verify(here) if (one.variant, one.selection) == ("raw", "last")]
    assert last.verified is False
    assert f"{folder / 'model.pt'} cannot be read" in last.message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda row: {"n_correct": row.n_correct + 1}, "right answers, found"),
        (lambda row: {"n_correct_top5": row.n_correct_top5 - 1}, "right within the first five"),
        (lambda row: {"n_total": 541}, "expected 541 images, found 540"),
        (lambda row: {"hits": bytes(len(row.hits))}, "of them different"),
    ],
)
def test_other_counts_are_refused_with_what_was_expected_and_found(here, change, told):
    store = here[1]
    (row,) = [
        one
        for one in store.results.evaluations(succeeded(store).id)
        if (one.variant, one.selection) == ("raw", "last")
    ]
    store._database.write(lambda db: db.execute(update(results).values(**change(row))))
    (last,) = [one for one in verify(here) if (one.variant, one.selection) == ("raw", "last")]
    assert last.verified is False
    assert told in last.message
    assert shown(here) is False


def test_other_counts_on_images_whose_bytes_were_not_recorded_are_nobodys_fault_yet(here):
    store = here[1]
    run = succeeded(store)
    listed = "listing-" + store.results.get(run.id).data_digest  # as of a folder, before 0.2
    store._database.write(lambda db: db.execute(update(results).values(data_digest=listed)))
    assert {one.verified for one in verify(here)} == {True}
    store._database.write(lambda db: db.execute(update(results).values(n_correct=1)))
    for one in verify(here):
        assert one.verified is None
        assert "expected 1 right answers, found" in one.message
        assert one.message.endswith(
            "only names and sizes were recorded: neither confirmed nor refuted"
        )
    assert shown(here) is True


def test_other_data_and_a_missing_gpu_mark_nothing(here):
    store = here[1]
    verify(here)
    if not torch.cuda.is_available():
        gpu = json.dumps({"device": "cuda", "threads": 1})
        store._database.write(lambda db: db.execute(update(attempts).values(environment=gpu)))
        assert {(one.verified, one.measured) for one in verify(here)} == {(None, None)}
        assert all(one.verified for one in verify(here, device="cpu", threads=1))
    store._database.write(lambda db: db.execute(update(results).values(data_digest="other")))
    for one in verify(here, device="cpu"):
        assert one.verified is None
        assert "is not the dataset of the training" in one.message
        assert "the database says other" in one.message
    assert shown(here) is True


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_a_gpu_has_counted_in_integers_a_cpu_counts_too(here):
    store = here[1]
    gpu = json.dumps({"device": "cuda", "threads": 1, "evaluation": "integer"})
    store._database.write(lambda db: db.execute(update(attempts).values(environment=gpu)))
    found = {(one.variant == "bn", one.verified) for one in verify(here)}
    assert found == {(False, True), (True, None)}  # the GPU's statistics are its own
    assert {one.verified for one in verify(here, device="cuda")} == {None}  # as it was asked for


def test_a_run_without_a_result_is_said_and_all_means_those_that_have_one(here):
    store = here[1]
    with pytest.raises(NotFound, match="is queued: only a succeeded run has a result"):
        runs_to_verify(store, ["@last"])
    assert runs_to_verify(store, [], all_succeeded=True) == [succeeded(store)]
    assert runs_to_verify(store, [succeeded(store).id], all_succeeded=True) == [succeeded(store)]


@pytest.mark.slow
def test_a_workspace_that_was_moved_gives_its_models_to_verify_load_and_train_on(trained, tmp_path):
    elsewhere = CommandLine(tmp_path)
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    hidden = trained.rename(trained.with_name("hidden"))  # nothing may be read from the old place
    try:
        home = tmp_path / ".lsqctl"
        settings = Settings(home, f"sqlite:///{home / 'lsqctl.db'}", home / "data")
        with open_store(settings.db_url) as store:
            parent = succeeded(store)
            evaluations = store.results.evaluations(parent.id)
        assert not Path(evaluations[0].checkpoint).exists()
        model = lsqctl.load_model(parent.id, settings=settings)
        assert not model.training
        assert [model.headline] == [one for one in evaluations if one.headline]
        done = elsewhere("verify", parent.id)
        assert "5 of 5 results verified" in done.stderr
        child = STEEP.replace("resnet8}", "resnet8, weights: {run: tiny}}")
        elsewhere.write("child.yaml", child.replace("epochs: 3", "epochs: 1"))
        elsewhere("run", "child.yaml", "--if-exists", "skip")
    finally:
        hidden.rename(trained)


def test_the_rows_of_a_run_that_was_moved_name_its_folder_of_today(here):
    from tests.store.samples import checkpoint, identity, new, submit, take, zombie

    store = here[1]
    store.workers.register(identity("w1"))
    submit(store, new("a", priority=9))
    lease = take(store).lease
    for step in (1, 2):
        store.checkpoints.record(lease, checkpoint(step))
    moved = replace(checkpoint(2), directory=Path("/elsewhere/ckpt-2"), sha256="later")
    store.checkpoints.record(lease, moved)
    store.checkpoints.relocate(lease, Path("/runs"))
    rows = store.checkpoints.list(lease.run_id)
    assert {(row.directory, row.step) for row in rows} == {("/runs/ckpt-1", 1), ("/runs/ckpt-2", 2)}
    with pytest.raises(Exception, match="lost its lease"):
        store.checkpoints.relocate(zombie(lease), Path("/x"))


def test_the_command_line_marks_the_board_and_exits_with_1_on_damage(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    cli = CommandLine(tmp_path)
    data = json.loads(cli("verify", "--all", "--json").stdout)
    assert {one["verified"] for one in data["results"]} == {True}
    assert "local, verified" in cli("leaderboard").stdout
    for path in tmp_path.rglob("ckpt-*/model.pt"):
        path.write_bytes(path.read_bytes()[:-1])
    done = cli("verify", "--all", code=1)
    assert "model.pt has" in done.stderr
    assert "verification failed" in cli("leaderboard").stdout
    assert "name a run" in cli("verify", code=2).stderr
