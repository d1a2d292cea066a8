"""A crash, a full disk or a flipped bit never costs more than the newest checkpoint."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lsqctl
from lsqctl.errors import DataError
from lsqctl.training.checkpoint import (
    CheckpointContent,
    load_model_state,
    read_checkpoint,
    resume_point,
    verify_checkpoint,
    write_checkpoint,
)
from lsqctl.training.checkpoint_files import remove_checkpoints


def snapshot(step, *, size=64, best=None):
    return CheckpointContent(
        step,
        epoch=step // 10,
        model={"w": torch.full((size,), float(step))},
        training={"random": {"torch": torch.arange(4, dtype=torch.uint8)}},
        state={"cursor": {"step": step, "loss": 0.1 + 0.2}},
        best_step=best,
    )


def write(folder, step, **kwargs):
    found = write_checkpoint(folder, snapshot(step, **kwargs), fence="7")
    remove_checkpoints(found.replaces)
    return found


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_and_verifies(tmp_path):
    found = write(tmp_path, 12)
    assert found.directory == tmp_path / "ckpt-00000012"
    assert verify_checkpoint(found.directory) == found.sha256
    assert found.size_bytes == sum(path.stat().st_size for path in found.directory.iterdir())
    read = read_checkpoint(found.directory)
    assert (read.step, read.epoch, read.state) == (12, 1, snapshot(12).state)
    assert torch.equal(read.model["w"], snapshot(12).model["w"])
    assert torch.equal(load_model_state(found.directory)["w"], snapshot(12).model["w"])


def test_the_last_two_and_the_best_are_kept(tmp_path):
    for step in range(6):
        write(tmp_path, step, best=min(step, 1))
    assert names(tmp_path) == ["ckpt-00000001", "ckpt-00000004", "ckpt-00000005"]


def test_the_same_step_may_be_saved_again(tmp_path):
    write(tmp_path, 3)
    write(tmp_path, 3, best=3)
    assert names(tmp_path) == ["ckpt-00000003"]
    assert resume_point(tmp_path)[0].best_step == 3


def test_a_replaced_checkpoint_is_read_when_the_crash_came_between_the_two_renames(tmp_path):
    write(tmp_path, 2)
    write(tmp_path, 3).directory.rename(tmp_path / "ckpt-00000003.old")
    assert resume_point(tmp_path)[0].step == 3
    write(tmp_path, 4)
    write(tmp_path, 5)
    assert names(tmp_path) == ["ckpt-00000004", "ckpt-00000005"]


def test_only_the_owner_may_read_it(tmp_path):
    before = os.umask(0)
    try:
        found = write(tmp_path / "run", 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE(found.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in found.directory.iterdir()} == {0o600}


def test_every_flipped_bit_and_every_cut_is_seen_and_the_one_before_is_read(tmp_path):
    write(tmp_path, 1)
    newest = write(tmp_path, 2).directory
    draw = random.Random(0)
    for _ in range(100):
        path = draw.choice(sorted(newest.iterdir()))
        good = path.read_bytes()
        place = draw.randrange(len(good))
        bad = bytearray(good)
        bad[place] ^= 1 << draw.randrange(8)
        path.write_bytes(draw.choice([bytes(bad), good[:place]]))
        found, complaints = resume_point(tmp_path)
        assert found.step == 1
        assert str(path) in complaints[0]
        (tmp_path / f"damaged-{newest.name}").rename(newest)
        path.write_bytes(good)
    assert resume_point(tmp_path)[1] == []


def test_without_any_good_checkpoint_there_is_none_and_each_bad_one_is_named(tmp_path):
    assert resume_point(tmp_path) == (None, [])
    for step in (1, 2):
        (write(tmp_path, step).directory / "manifest.json").unlink()
    found, complaints = resume_point(tmp_path)
    assert found is None
    assert len(complaints) == 2


def test_a_checkpoint_that_holds_more_than_tensors_is_refused(tmp_path):
    path = write_checkpoint(
        tmp_path,
        CheckpointContent(1, 0, model={"w": random.Random()}, training={}, state={}),
        fence="7",
    ).directory
    with pytest.raises(DataError, match=r"model\.pt holds more than tensors"):
        read_checkpoint(path)


def test_a_disk_that_fills_up_keeps_the_earlier_checkpoint_and_says_what_is_needed(tmp_path):
    write(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OSError, match=r"disk full: need .* free on") as error:
            write(tmp_path, 2, size=1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert error.value.errno == errno.EFBIG
    assert names(tmp_path) == ["ckpt-00000001"]
    assert resume_point(tmp_path)[0].step == 1


def test_a_checkpoint_is_not_begun_without_three_times_its_size(tmp_path):
    sparse = write(tmp_path, 1).directory / "sparse"
    with sparse.open("wb") as file:
        file.truncate(2**42)
    with pytest.raises(OSError, match="disk full: need 13194 GB") as error:
        write(tmp_path, 2)
    assert error.value.errno == errno.ENOSPC
    sparse.unlink()
    assert write(tmp_path, 2).step == 2


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "run").write_text("a file, not a folder")
    with pytest.raises(OSError, match="exists"):
        write(tmp_path / "run", 1)


def test_half_written_ones_of_dead_attempts_are_swept(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "ckpt.tmp.5").mkdir()
    (tmp_path / "ckpt.tmp.5" / "model.pt").write_bytes(b"half")
    assert resume_point(tmp_path)[0].step == 1
    assert names(tmp_path) == ["ckpt-00000001"]


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.training.test_checkpoint import write
step = {first}
while True:
    write(Path({folder!r}), step, size=20_000)
    if step == {first}:
        print("ready", flush=True)
    step += 1
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_checkpoint_that_verifies(tmp_path):
    draw = random.Random(1)
    first = 0
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for _ in range(3):
        code = WRITER.format(tests=root, folder=str(tmp_path), first=first)
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        writer.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(timeout=0.1 + 0.1 * draw.random())
        writer.kill()
        writer.communicate()
        found, complaints = resume_point(tmp_path)
        assert found is not None
        assert complaints == []
        assert found.model["w"].eq(found.step).all()
        first = found.step + 1


def test_what_the_folders_are_called_is_known_in_one_module():
    package = Path(lsqctl.__file__).parent
    knowing = [path.name for path in package.rglob("*.py") if "ckpt" in path.read_text("utf-8")]
    assert knowing == ["checkpoint_files.py"]
