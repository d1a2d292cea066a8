"""Laws of the words that explain a dead trainer."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from lsqctl.errors import CannotCompile, DataError
from lsqctl.run import EndReason
from lsqctl.training.image_folder import DecoderEnded
from lsqctl.worker import execute, reasons
from lsqctl.worker.messages import AttemptSpec, ExitReport
from lsqctl.worker.reasons import (
    MemoryMonitor,
    end_reason_of,
    error_message,
    oom_kills,
    report_from_exit_code,
    signal_name,
)

V2 = "0::/user/job\n", "user/job/memory.events", "low 0\nhigh 3\noom 2\noom_kill {}\n"
V1 = "4:cpu,memory:/job\n0::/\n", "memory/job/memory.oom_control", "under_oom 0\noom_kill {}\n"


def written(folder, version, count):
    """Write what the kernel shows of a cgroup."""
    groups, name, counts = version
    (folder / "self").mkdir(exist_ok=True)
    (folder / "self" / "cgroup").write_text(groups)
    file = folder / "cgroup" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(counts.format(count))
    return folder, folder / "cgroup"


@pytest.mark.parametrize("version", [V2, V1], ids=["cgroup v2", "cgroup v1"])
def test_a_kill_for_memory_is_told_from_any_other_by_the_cgroups_count(
    tmp_path, monkeypatch, version
):
    roots = written(tmp_path, version, 3)
    assert oom_kills(*roots) == 3
    monkeypatch.setattr(reasons, "oom_kills", lambda: oom_kills(*roots))
    watch = MemoryMonitor()
    watch.sample(1)
    by_hand = report_from_exit_code(-signal.SIGKILL, tmp_path, watch)
    assert by_hand.reason is EndReason.INFRA
    assert by_hand.message.startswith("killed by SIGKILL: by hand, or")
    assert "its peak memory was" in by_hand.message
    written(tmp_path, version, 4)
    for_memory = report_from_exit_code(-signal.SIGKILL, tmp_path, watch)
    assert for_memory.message.startswith("killed by the kernel: the machine or its cgroup ran out")


def test_where_the_kernel_tells_nothing_there_were_no_such_kills(tmp_path):
    assert oom_kills(tmp_path, tmp_path) == 0
    written(tmp_path, V2, "unreadable")
    assert oom_kills(tmp_path, tmp_path / "cgroup") == 0


def test_an_exit_code_or_a_signal_is_named_with_the_log_to_look_at(tmp_path):
    watch = MemoryMonitor()
    assert report_from_exit_code(-signal.SIGSEGV, tmp_path, watch).message.startswith(
        "killed by SIGSEGV"
    )
    assert report_from_exit_code(3, tmp_path, watch).reason is EndReason.CODE
    assert report_from_exit_code(76, tmp_path, watch).reason is EndReason.OOM
    assert str(tmp_path) in report_from_exit_code(3, tmp_path, watch).message


@pytest.mark.parametrize("error", [CannotCompile("CppCompileError"), DecoderEnded("worker 7")])
def test_what_a_signal_to_the_whole_group_ends_is_the_stop_and_not_a_fault(error):
    assert end_reason_of(error) is EndReason.INFRA
    reason = end_reason_of(error, stopped=True)
    assert reason is EndReason.PREEMPTED
    assert error_message(error, reason).startswith("asked to stop; the run goes on")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), DataError("no file")])
def test_a_stop_hides_no_other_fault(error):
    assert end_reason_of(error, stopped=True) is end_reason_of(error) is not EndReason.PREEMPTED


def test_a_signal_without_a_name_is_told_by_its_number():
    """Most real-time signals have none."""
    assert (signal_name(15), signal_name(35)) == ("SIGTERM", "signal 35")


def execute_with_a_full_log(error: Exception, report_fd: int) -> None:
    """Execute an attempt that fails, in this process, which ends with it."""

    def train(spec, stop):
        raise error

    execute._train_and_record = train
    full = os.open("/dev/full", os.O_WRONLY)
    spec_fd, write_end = os.pipe()
    spec = AttemptSpec("a", 1, "f", "sqlite:///x", 1.0, "/x", "/x", "cpu", 1, os.getppid())
    os.write(write_end, spec.to_line().encode())
    for source, target in ((spec_fd, 0), (full, 1), (full, 2)):
        os.dup2(source, target)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115 (until the end)
    execute.execute(report_fd, None)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError("a bad disk"), EndReason.INFRA), (KeyError("bug"), EndReason.CODE)],
)
def test_why_an_attempt_ended_is_told_also_where_its_log_takes_no_line(error, reason):
    report, write_end = os.pipe()
    child = os.fork()
    if not child:
        try:
            execute_with_a_full_log(error, write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(report) as pipe:
        told = ExitReport.from_line(pipe.read())
    os.waitpid(child, 0)
    assert (told.reason, told.message) == (reason, error_message(error, reason))
