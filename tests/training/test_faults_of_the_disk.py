"""What a save does when the kernel fails it: kills, EIO and full disks, by real means."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lsqctl.training.checkpoint import resume_point
from tests.conftest import fewer, tmpfs
from tests.training.test_checkpoint import names, write

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None,
    reason="NOT TESTED: kills and errors at single system calls (Debian: apt install strace)",
)
ROOT = Path(__file__).parent.parent.parent
CALLS = ("mkdir", "openat", "write", "fsync", "rename", "unlinkat", "rmdir", "close")

# Forks a child for each line it reads: importing torch anew for each would take minutes. The child
# waits for its tracer, saves, and says how that went.
SAVER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.training.test_checkpoint import write
for line in sys.stdin:
    folder, step, size = line.split()
    if (child := os.fork()) == 0:
        while "TracerPid:\\t0" in open("/proc/self/status").read():
            time.sleep(0.002)
        try:
            write(Path(folder), int(step), size=int(size))
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def saver():
    """Return ``save(folder, step, size, injection)``: its exit code, or minus its signal."""
    process = subprocess.Popen(
        [sys.executable, "-c", SAVER.format(root=str(ROOT))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def save(folder: Path, step: int, size: int, injection: str) -> int:
        process.stdin.write(f"{folder} {step} {size}\n")
        process.stdin.flush()
        child = process.stdout.readline().strip()
        call = injection.partition(":")[0]
        options = ["-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={injection}"]
        tracer = subprocess.Popen(
            ["strace", "-qq", *options, "-p", child], stderr=subprocess.DEVNULL
        )
        code = int(process.stdout.readline())
        tracer.wait()
        return code

    yield save
    process.stdin.close()
    process.stdout.close()
    process.wait()


def prepared(folder: Path) -> Path:
    """Make a folder with two checkpoints, so that the next save also sweeps one."""
    for step in (1, 2):
        write(folder, step, size=100)
    return folder


@needs_strace
@pytest.mark.parametrize("step", fewer([3, 2], 1), ids="step {}".format)
def test_a_kill_at_any_system_call_of_a_save_leaves_the_previous_or_the_new_checkpoint(
    tmp_path, saver, step
):
    template = prepared(tmp_path / "template")
    seen, kills = set(), 0
    for call in CALLS:
        for nth in range(1, 200):
            folder = tmp_path / f"{call}-{nth}"
            shutil.copytree(template, folder)
            code = saver(folder, step, 200, f"{call}:signal=SIGKILL:when={nth}")
            assert code in (0, -9)
            found, complaints = resume_point(folder)
            assert complaints == []
            new = found.step == step and len(found.model["w"]) == 200
            old = found.step == 2 and len(found.model["w"]) == 100
            assert new or old, (call, nth, found)
            assert torch.equal(found.model["w"], torch.full_like(found.model["w"], found.step))
            seen.add(new)
            shutil.rmtree(folder)
            if code == 0:  # it has fewer such calls: the injection passed through
                break
            kills += 1
    assert seen == {True, False}
    assert kills > 30


@needs_strace
@pytest.mark.parametrize("nth", range(1, 7))
def test_a_failing_fsync_costs_one_try_with_fresh_files_and_never_the_previous_checkpoint(
    tmp_path, saver, nth
):
    """Five files and folders of the new checkpoint are synced, then the folder that holds it."""
    once = saver(prepared(tmp_path / "once"), 3, 200, f"fsync:error=EIO:when={nth}")
    assert once == (0 if nth < 6 else errno.EIO)
    assert resume_point(tmp_path / "once")[0].step == 3

    always = saver(prepared(tmp_path / "always"), 3, 200, f"fsync:error=EIO:when={nth}+")
    assert always == errno.EIO
    complete = range(1, 3 if nth < 6 else 4)
    assert names(tmp_path / "always") == [f"ckpt-{step:08d}" for step in complete]
    found, complaints = resume_point(tmp_path / "always")
    assert (found.step, complaints) == (complete[-1], [])


@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED: a full file system (needs root: mount)")
def test_a_full_file_system_is_said_and_costs_nothing_that_was_saved(tmp_path):
    with tmpfs(tmp_path / "small", "2m") as small:
        write(small, 1, size=100_000)
        with pytest.raises(
            OSError, match=rf"disk full: need \d\.\d\d MB, \S+ [kM]B free on {small}"
        ) as error:
            write(small, 2, size=1_000_000)
        assert error.value.errno == errno.ENOSPC
        assert names(small) == ["ckpt-00000001"]
        assert resume_point(small)[0].step == 1
        (small / "ballast").write_bytes(bytes(1_000_000))  # now less than three times the last
        with pytest.raises(OSError, match=r"disk full: need 1\.[12]\d MB"):
            write(small, 2, size=100)
        (small / "ballast").unlink()
        assert write(small, 2, size=100).step == 2


@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED: a full file system (needs root: mount)")
def test_a_file_system_without_inodes_is_not_said_to_lack_bytes(tmp_path):
    with tmpfs(tmp_path / "small", "9m", inodes=12) as small:
        write(small, 1, size=100)
        ballast = [small / str(number) for number in range(12)]
        with contextlib.suppress(OSError):  # as many as there are inodes
            for path in ballast:
                path.touch()
        for free in (0, 1, 2):  # none; one for the folder; one for its first file
            with pytest.raises(OSError, match=r"disk full: no inode is free on \S+, though \S+ MB"):
                write(small, 2, size=100)
            assert set(names(small)) - set(map(str, range(12))) == {"ckpt-00000001"}
            ballast[free].unlink()
        for path in ballast:
            path.unlink(missing_ok=True)
        assert write(small, 2, size=100).step == 2
