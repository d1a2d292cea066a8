"""Teachers that are asked once: a store of logits, shared by runs, cut, resumed, and exact."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
import torch
from PIL import Image

from lsqctl.errors import DataError, Preempted
from lsqctl.events import Checkpoint, LogMessage
from lsqctl.models.factory import build_model
from lsqctl.recipe import DataSection, ExtensionSection, cross_check, fingerprint
from lsqctl.training.image_folder import FolderImages
from lsqctl.training.logit_stores import CHUNK_IMAGES, PARTS, stored_logits
from lsqctl.training.optimizer_step import train_step
from lsqctl.training.teacher_logits import TeacherLogits
from lsqctl.training.teacher_view import cached_logits, load_teacher_view
from tests.conftest import no_locks, tmpfs
from tests.training.attempts import assert_same_state, plain, rows, run
from tests.training.conftest import session_of, tiny

VIEWS = {"pad": 1, "views": 2}
CACHED = {"teacher": "teacher.pt", "cache": True}
IMAGES, CLASSES = 2 * CHUNK_IMAGES + 7, 3


def cached(*, epochs=1, data=None, train=None, seed=0):
    data, train = VIEWS | (data or {}), train or {"epochs": epochs}
    return tiny(distill=CACHED, data=data, train=train, seed=seed)


@pytest.fixture
def taught(job, tmp_path):
    """Return a maker of jobs whose teacher is a file."""
    torch.manual_seed(7)
    teacher = build_model("resnet8", num_classes=10, in_channels=1)
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    inputs = {"distill.teacher": tmp_path / "teacher.pt"}
    return lambda name="run", **changes: job(name, inputs=inputs, **changes)


def texts(facts):
    return [one.text for one in facts if isinstance(one, LogMessage) and "logits" in one.text]


class Computes:
    """Gives logits that tell their image, and counts how many it was asked for."""

    def __init__(self):
        self.asked = 0

    def __call__(self, chunks):
        for indices in chunks:
            self.asked += len(indices)
            yield np.repeat(indices[:, None], CLASSES, 1).astype(np.float32)


def never():
    """Do not stop."""


def store_in(folder, images_count=IMAGES, **about):
    return TeacherLogits(folder, {"teacher": "abc"} | about, (images_count, CLASSES))


def files_of(view):
    """Return the content of each part of a view, by its name."""
    return {path.name: path.read_bytes() for path in sorted(view.path.iterdir())}


def test_a_view_is_computed_once_and_read_by_whoever_names_the_same_teacher_and_images(tmp_path):
    first, second, other = Computes(), Computes(), Computes()
    made = store_in(tmp_path).load(3, first, never)
    found = store_in(tmp_path).load(3, second, never)
    store_in(tmp_path, images="others").load(3, other, never)
    assert (first.asked, second.asked, other.asked) == (IMAGES, 0, IMAGES)
    assert (found.digest, found.images_computed) == (made.digest, 0)
    assert (found.logits == np.arange(IMAGES, dtype=np.float16)[:, None]).all()
    stores = stored_logits(tmp_path)
    assert sorted((one.about.get("images", ""), one.views) for one in stores) == [
        ("", 1),
        ("others", 1),
    ]


@pytest.mark.parametrize("kept", [0, 40, 1000, 2400, 2900])
def test_a_part_that_was_cut_is_completed_and_is_what_it_was(tmp_path, kept):
    images = 2 * PARTS * CHUNK_IMAGES - 7  # two chunks a part
    whole = store_in(tmp_path, images).load(0, Computes(), never)
    files = files_of(whole)
    assert len(files) == PARTS
    with (whole.path / "part-15").open("r+b") as file:
        file.truncate(kept)
    again = Computes()
    view = store_in(tmp_path, images).load(0, again, never)
    assert files_of(whole) == files
    assert (view.logits == whole.logits).all()
    assert view.digest == whole.digest
    assert view.images_damaged == again.asked
    first = 2 * 32 + CHUNK_IMAGES * CLASSES * 2  # bytes of the hashes and of the first chunk
    assert again.asked == (CHUNK_IMAGES - 7) + (CHUNK_IMAGES if kept < first else 0)


@pytest.mark.parametrize("images", [1, 250, 251, 16 * 250, 16 * 250 + 1, 40 * 250 + 3])
def test_every_image_has_its_logits_however_many_parts_there_are(tmp_path, images):
    view = store_in(tmp_path, images).load(0, Computes(), never)
    assert (view.logits[:, 0] == np.arange(images, dtype=np.float16)).all()
    assert len(files_of(view)) == min(PARTS, -(-images // 250))
    assert view.images_computed == images


def test_a_flipped_bit_costs_its_chunk_and_a_view_of_another_store_counts_for_nothing(tmp_path):
    whole = store_in(tmp_path).load(0, Computes(), never)
    last = whole.path / "part-02"
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    again = Computes()
    assert store_in(tmp_path).load(0, again, never).images_damaged == again.asked == 7
    for store, view in ((store_in(tmp_path), 1), (store_in(tmp_path, images="others"), 0)):
        shutil.copytree(whole.path, store.folder / f"view-{view:04d}")
        assert store.load(view, again, never).images_damaged == IMAGES


def test_what_was_computed_before_a_stop_is_not_computed_again(tmp_path):
    def stop():
        raise Preempted("stop")

    first, second = Computes(), Computes()
    with pytest.raises(Preempted):
        store_in(tmp_path).load(0, first, stop)
    view = store_in(tmp_path).load(0, second, never)
    assert (first.asked, second.asked) == (CHUNK_IMAGES, IMAGES - CHUNK_IMAGES)
    assert view.images_damaged == 0


def test_a_view_is_listed_as_one_once_all_of_it_is_computed(tmp_path):
    def stop():
        raise Preempted("stop")

    def views():
        (one,) = stored_logits(tmp_path)
        return one.views, one.views_in_part

    store, two_chunks_a_part = store_in(tmp_path), 2 * PARTS * CHUNK_IMAGES
    with pytest.raises(Preempted):
        store.load(0, Computes(), stop)
    assert views() == (0, 1)
    made = store.load(1, Computes(), never)
    assert views() == (1, 1)
    store.load(0, Computes(), never)
    assert views() == (2, 0)
    (made.path / "part-01").write_bytes(b"")
    assert views() == (1, 1)
    shutil.rmtree(store.folder)
    with pytest.raises(Preempted):
        store_in(tmp_path, two_chunks_a_part).load(0, Computes(), stop)
    assert views() == (0, 1)


def test_a_store_that_does_not_say_its_shape_is_listed_by_its_folders(tmp_path):
    store = store_in(tmp_path)
    store.load(0, Computes(), never)
    (store.folder / "about.json").write_text('{"teacher": "abc"}')
    (listed,) = stored_logits(tmp_path)
    assert (listed.views, listed.views_in_part) == (1, 0)
    assert store_in(tmp_path).load(0, Computes(), never).images_computed == 0


def test_what_another_run_computes_is_left_to_it_and_the_rest_computed_meanwhile(tmp_path):
    whole = store_in(tmp_path).load(0, Computes(), never)
    first, rest = whole.path / "part-00", Computes()
    data = first.read_bytes()
    for path in whole.path.iterdir():
        path.write_bytes(b"")
    with first.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def other_run_ends():
            if rest.asked == IMAGES - CHUNK_IMAGES:
                other.write(data)
                other.flush()
                fcntl.flock(other, fcntl.LOCK_UN)

        view = store_in(tmp_path).load(0, rest, other_run_ends)
    assert (view.waited, view.images_computed) == (True, IMAGES - CHUNK_IMAGES)
    assert (rest.asked, view.digest) == (view.images_computed, whole.digest)
    assert (view.logits == whole.logits).all()


def test_runs_that_need_a_view_at_once_compute_it_together_and_nothing_twice(tmp_path):
    images = 32 * CHUNK_IMAGES
    start = threading.Barrier(4)

    def slowly(chunks):
        for logits in Computes()(chunks):
            time.sleep(0.01)
            yield logits

    def load(_):
        start.wait()
        return store_in(tmp_path, images).load(0, slowly, never)

    with ThreadPoolExecutor(4) as pool:  # flock parts threads as it does processes
        views = list(pool.map(load, range(4)))
    assert sum(view.images_computed for view in views) == images
    assert all(view.images_computed for view in views)
    assert len({view.digest for view in views}) == 1
    told = np.arange(images, dtype=np.float16)
    assert all((view.logits[:, 0] == told).all() for view in views)


def test_a_part_whose_run_ends_in_the_middle_is_taken_over(tmp_path):
    store = store_in(tmp_path)
    path = store.load(0, Computes(), never).path / "part-01"
    path.write_bytes(b"")
    with path.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def other_run_ends():
            fcntl.flock(other, fcntl.LOCK_UN)

        taken_over = Computes()
        assert store.load(0, taken_over, other_run_ends).waited
    assert taken_over.asked == CHUNK_IMAGES


def test_a_part_that_does_not_keep_what_was_written_is_never_trained_on(tmp_path):
    store, computes = store_in(tmp_path), Computes()

    def cut_behind_its_back():
        for part in store.folder.glob("view-0000/*"):
            part.write_bytes(b"")

    with pytest.raises(OSError, match=r"does not hold what was written to it.*part-00"):
        store.load(0, computes, cut_behind_its_back)
    assert computes.asked == CHUNK_IMAGES


@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED: a full file system (needs root: mount)")
@pytest.mark.parametrize(
    ("inodes", "what", "where"),
    [
        (0, r"\S+ \w?B", "teachers/\\w+/view-0000"),
        (2, r"no inode, though \S+ \w?B, are", "teachers"),
    ],
)
def test_a_full_disk_is_said_with_its_place_and_what_was_computed_is_kept(
    tmp_path, inodes, what, where
):
    with tmpfs(tmp_path / "small", "24k", inodes=inodes) as small:
        store, computes = store_in(small, 20 * IMAGES), Computes()
        with pytest.raises(
            OSError, match=rf"disk full: {what} free on {small}/{where}, where"
        ) as error:
            store.load(0, computes, never)
        assert error.value.errno == errno.ENOSPC
        assert "make room, or leave distill.cache out" in str(error.value)
        remount = ["mount", "-o", "remount,size=1m,nr_inodes=0", str(small)]
        subprocess.run(remount, check=True)
        found = store.load(0, computes, never)
        assert (found.images_damaged, found.images_computed < 20 * IMAGES) == (0, not inodes)


def test_a_file_system_without_locks_is_said_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    said = r"part-00: its file system locks no files \(operation not supported\): .* leave distill"
    with pytest.raises(DataError, match=said):
        store_in(tmp_path).load(0, Computes(), never)


def test_a_view_that_is_there_is_read_whoever_holds_it(tmp_path):
    whole = store_in(tmp_path).load(0, Computes(), never)
    with (whole.path / "part-00").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        view = store_in(tmp_path).load(0, Computes(), never)
    assert (view.waited, view.images_computed, view.digest) == (False, 0, whole.digest)


def test_a_logit_too_large_for_fp16_is_refused_and_not_kept(tmp_path):
    def large(chunks):
        return (np.full((len(one), CLASSES), 1e5, np.float32) for one in chunks)

    with pytest.raises(DataError, match=r"100000, which fp16 does not hold: leave distill\.cache"):
        store_in(tmp_path).load(0, large, never)
    fine = Computes()
    store_in(tmp_path).load(0, fine, never)
    assert fine.asked == IMAGES


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (lambda path: path.symlink_to(path.parent), "is a link"),
        (lambda path: path.mkdir(), "is a directory"),
        (os.mkfifo, "is no regular file"),
        (lambda path: os.mknod(path, stat.S_IFSOCK | 0o600), "no such device"),
    ],
)
def test_what_lies_in_the_place_of_a_part_is_refused_in_one_line(tmp_path, place, what):
    view = store_in(tmp_path).folder / "view-0000"
    view.mkdir(parents=True)
    place(view / "part-00")
    refusal = rf"part-00: {what}.*remove it, or leave distill\.cache out"
    with pytest.raises(DataError, match=refusal):
        store_in(tmp_path).load(0, Computes(), never)


@pytest.mark.parametrize("up", [0, 1, 2])
def test_a_file_in_the_place_of_a_folder_is_refused_by_its_name(tmp_path, up):
    view = store_in(tmp_path).folder / "view-0000"
    folder = (view, *view.parents)[up]
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("")
    with pytest.raises(DataError, match=rf"{folder}: not a directory: .*remove it"):
        store_in(tmp_path).load(0, Computes(), never)


def test_with_views_an_epoch_sees_what_the_same_view_showed_whatever_the_seed(job):
    def view(seed, epoch):
        pipeline = session_of(tiny(data=VIEWS, seed=seed), job()).pipeline
        indices = np.concatenate(pipeline.batch_indices(epoch))
        images = torch.cat([images for images, _ in pipeline.train_batches(epoch)])
        return indices.tolist(), images[torch.from_numpy(indices.argsort())]

    order, images = view(0, 1)
    for seed, epoch in ((0, 3), (5, 1)):
        other_order, other_images = view(seed, epoch)
        assert torch.equal(images, other_images)
        assert order != other_order
    assert not torch.equal(images, view(0, 2)[1])


def test_cached_logits_are_the_teachers_of_the_very_images_in_half_precision(taught):
    session = session_of(cached(), taught())
    load_teacher_view(session)
    batch = zip(session.pipeline.batch_indices(0), session.pipeline.train_batches(0), strict=True)
    for indices, (images, _) in batch:
        with torch.no_grad():
            expected = session.teacher(images).half()
        torch.testing.assert_close(cached_logits(session, indices), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("data", "shared"),
    [
        ({"resize_mode": "square", "crop": 8}, True),  # what paper/w4a4 says, and no set in memory
        ({"batch_size": 7, "views": 3}, True),
        ({"limit_eval": 10}, True),
        ({"limit_train": 10}, False),
        ({"flip": True}, False),
        ({"flip": True, "flip_order": "alternating"}, False),
        ({"pad": 3}, False),
        ({"normalize": "none"}, False),
    ],
)
def test_runs_share_a_store_whose_images_look_alike_whatever_else_they_say(taught, data, shared):
    stores = [session_of(cached(data=each), taught()).teacher_logits for each in ({}, data)]
    assert (stores[0].folder == stores[1].folder) is shared


def test_a_teacher_of_another_package_has_a_store_for_each_version_of_it(taught):
    def about(network):
        weights = taught().inputs["distill.teacher"]
        torch.save(build_model(network, num_classes=10, in_channels=1).state_dict(), weights)
        recipe = tiny(distill=CACHED | {"teacher_model": network}, data=VIEWS)
        return session_of(recipe, taught()).teacher_logits.about

    assert about("resnet18")["package"] == f"torchvision {version('torchvision')}"
    assert "package" not in about("resnet8")  # what was kept of lsqctl's own before is found
    pytest.importorskip("timm")
    assert about("timm/resnet10t")["package"] == f"timm {version('timm')}"


def test_images_that_took_the_place_of_others_have_a_store_of_their_own(tmp_path, monkeypatch):
    """The same names and sizes: bitmaps. Of very many files the time of change tells."""
    files = [(str(tmp_path / f"{name}.bmp"), 0) for name in "ab"]
    data = DataSection(name="imagefolder", resize=8, crop=8)

    def written(shade):
        for path, _ in files:
            Image.new("RGB", (8, 8), (shade, shade, shade)).save(path)
        images = FolderImages(files, data)
        return images.digest(), images.content_digest()

    first, same, other = written(1), written(1), written(2)
    assert first == same
    assert first[0] == other[0]
    assert first[1] != other[1]
    monkeypatch.setattr("lsqctl.training.image_folder.MAX_HASHED_BYTES", 10)
    assert len({written(shade) for shade in (1, 2)}) == 2


def test_a_run_with_a_cache_is_resumed_to_the_bit_also_where_its_store_was_lost(taught):
    recipe, context = cached(epochs=2, data={"views": 1}), taught("cut")
    whole = run(recipe, taught("whole"))
    (text,) = texts(whole)  # of the first epoch alone
    assert text.startswith("the teacher's logits of view 0: 1,257 images in")
    assert load_teacher_view(session_of(cached(seed=4, data={"views": 1}), taught("other"))) == []
    first = run(recipe, context, stop_after=9)  # within the second epoch
    shutil.rmtree(context.data_dir / "teachers")
    second = run(recipe, context)
    assert (len(texts(first)), len(texts(second))) == (0, 1)
    assert rows(first) + rows(second) == rows(whole)
    assert plain(second[-1]) == plain(whole[-1])
    assert second[-1].deterministic == "bitwise"
    assert_same_state(taught("whole").run_dir, context.run_dir)


def test_a_run_that_meets_other_logits_of_a_view_says_so_and_is_no_longer_exact(taught):
    session = session_of(cached(data={"views": 1}), taught())
    assert len(load_teacher_view(session)) == 1
    shutil.rmtree(session.teacher_view.path)
    session.teacher_logits.load(
        0, lambda chunks: (np.zeros((len(one), 10), np.float32) for one in chunks), never
    )
    (text,) = load_teacher_view(session)
    assert "are other ones than in earlier epochs" in text
    assert session.train_state.deterministic == "statistical"
    assert load_teacher_view(session) == []


def test_a_run_that_goes_on_from_another_knows_the_logits_that_its_parent_saw(taught):
    context, first = taught("parent"), cached(data={"views": 1})
    parent = [one for one in run(first, context) if isinstance(one, Checkpoint)][-1].directory
    longer = first.model_copy(
        update={
            "train": first.train.model_copy(update={"epochs": 2}),
            "extension": ExtensionSection(run="parent"),
        }
    )
    inputs = {**context.inputs, "extension.run": parent}
    assert run(longer, replace(taught("same"), inputs=inputs))[-1].deterministic == "bitwise"
    store = session_of(first, context).teacher_logits
    shutil.rmtree(store.folder)
    store.load(0, lambda chunks: (np.zeros((len(one), 10), np.float32) for one in chunks), never)
    events = run(longer, replace(taught("other"), inputs=inputs))
    assert "are other ones than in earlier epochs" in "".join(texts(events))
    assert events[-1].deterministic == "statistical"


def test_pieces_of_a_batch_are_taught_by_their_own_images(taught):
    losses = []
    for cache in (True, False):
        recipe = cached(train={"epochs": 1, "accumulate": 3})
        session = session_of(recipe, taught())
        images, labels = next(session.pipeline.train_batches(0))
        logits = session.teacher(images) if cache else None
        session.model.train()
        train_step(session, images, labels, logits)
        losses.append(session.train_state.window[0][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_cache_without_views_is_refused_and_older_recipes_keep_their_hash():
    recipe = tiny(distill=CACHED)
    (conflict,) = cross_check(recipe)
    assert (conflict.key, conflict.other_key) == ("distill.cache", "data.views")
    assert cross_check(cached()) == []
    inputs = {"distill.teacher": "file:abc"}
    plain_recipe = tiny(distill={"teacher": "teacher.pt"})
    named = tiny(distill={"teacher": "teacher.pt", "cache": False}, data={"views": 0})
    digests = {fingerprint(one, inputs, with_seed=True) for one in (plain_recipe, named, cached())}
    assert len(digests) == 2
