"""Files that are written whole or not at all, two at once as well, with errors of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lsqctl.atomic_write import (
    atomic_file,
    replace_file,
    stale_temporaries,
    temporary_beside,
    write_atomic,
)
from lsqctl.errors import StoreError, UsageError
from lsqctl.store.engine import prepare_file


def test_two_files_of_one_folder_are_written_at_once(tmp_path: Path) -> None:
    """By one process, or by two whose number is the same: each in a container."""
    with atomic_file(tmp_path / "a") as first, atomic_file(tmp_path / "b") as second:
        first.write(b"1")
        second.write(b"2")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"1", "b": b"2"}


def test_what_fails_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"old")
    with pytest.raises(TypeError), atomic_file(tmp_path / "a", force=True) as file:
        file.writelines([b"half", 0])  # type: ignore[list-item]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_source_that_cannot_be_read_is_named_and_not_the_file_that_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(FileNotFoundError, match="source"), atomic_file(tmp_path / "a"):
        (tmp_path / "source").read_bytes()
    with pytest.raises(UsageError, match=r"cannot write .*none/a: No such file"):
        write_atomic(tmp_path / "none" / "a", b"")


def test_an_error_without_a_number_is_told_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it broke"), atomic_file(tmp_path / "a"):
        raise OSError("it broke")


def test_a_path_that_cannot_even_be_asked_for_is_told_with_what_to_do(tmp_path: Path) -> None:
    """Where nothing can be written, the search for free inodes must not be a second error."""
    with pytest.raises(StoreError, match=r"cannot use .*name too long; choose another folder"):
        prepare_file(tmp_path / ("a" * 300) / "lsqctl.db")


ENDED = """
import os, signal, sys
from pathlib import Path
from lsqctl.atomic_write import replacing
with replacing(Path("a")) as first, replacing(Path("b")) as second:
    with replacing(Path("whole")) as file:
        file.write(b"whole")
    first.write(b"half")
    first.flush()
    os.kill(os.getpid(), int(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_process_as_ever_and_leaves_no_half_of_a_file(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    command = [sys.executable, "-c", ENDED, str(int(number))]
    ended = subprocess.run(command, cwd=tmp_path, check=False)
    assert ended.returncode == -number
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left == {"a": b"old", "whole": b"whole"}


# in a process for each: what is written piece by piece, and SIGTERM in the middle of it
IN_THE_MIDDLE = """
import os, signal
from pathlib import Path
from types import SimpleNamespace
from lsqctl.datasets import fetch
from lsqctl.deploy import folder
from lsqctl.store import maintenance, migrate, open_store


def end(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)


def download(folder):
    (folder / "half").touch()
    end()


def deployed():
    folder.os = SimpleNamespace(fsync=end, access=os.access, W_OK=os.W_OK, X_OK=os.X_OK)
    folder.write_folder(Path("deployed"), {"a/b": b"x"}, {})


def fetched():
    info = SimpleNamespace(paths=("half",))
    fetch._download(SimpleNamespace(info=info, name="d", is_complete=no, download=download), here)


def backed_up():
    maintenance._publish_copy = end
    open_store("sqlite:///own/lsqctl.db").maintenance.backup(here / "copy.db")


def upgraded():
    migrate.sqlite3 = SimpleNamespace(connect=end)
    migrate._back_up(here / "old.db", "1")


no, here = (lambda _: False), Path.cwd()
for writes in (deployed, fetched, backed_up, upgraded):
    child = os.fork()
    if not child:
        writes()
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM, writes
"""


def test_a_signal_leaves_no_half_of_a_deployment_a_download_or_a_copy_of_a_database(
    tmp_path: Path,
) -> None:
    subprocess.run([sys.executable, "-c", IN_THE_MIDDLE], cwd=tmp_path, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


FORKED = """
import os, signal
from pathlib import Path
from lsqctl.atomic_write import replacing

with replacing(Path("a")) as file:
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGTERM)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
    file.write(b"new")
"""


def test_a_forked_process_that_a_signal_ends_removes_nothing_of_its_parent(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FORKED], cwd=tmp_path, check=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new"}


def test_who_handles_a_signal_goes_on_handling_it(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with atomic_file(tmp_path / "a") as file:
            os.kill(os.getpid(), signal.SIGTERM)
            file.write(b"whole")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


CUT = """
import os, signal, sys
from pathlib import Path
from lsqctl.atomic_write import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_found_once_nothing_of_it_was_touched_for_a_day(
    tmp_path: Path,
) -> None:
    def age(path: Path, hours: float) -> None:
        os.utime(path, (time.time() - hours * 3600,) * 2, follow_symlinks=False)

    subprocess.run([sys.executable, "-c", CUT, tmp_path / "a"], check=False)
    (cut,) = tmp_path.iterdir()
    folder, link = temporary_beside(tmp_path / "b"), temporary_beside(tmp_path / "c")
    folder.mkdir()
    (folder / "part").write_bytes(b"half")
    link.symlink_to(folder)
    others = [tmp_path / ".lsqctl.mine.tmp", tmp_path / ".lsqctl", tmp_path / "data.tmp"]
    for path in others:
        path.write_bytes(b"!")
    assert stale_temporaries(tmp_path) == []
    for path in (cut, folder, link, *others):
        age(path, 25)
    assert stale_temporaries(tmp_path) == [cut]  # the folder is written to
    age(folder / "part", 25)
    assert stale_temporaries(tmp_path) == sorted([cut, folder])
    assert stale_temporaries(tmp_path, 26 * 3600) == []
    assert stale_temporaries(tmp_path / "none") == []


def test_a_file_that_is_replaced_is_its_owners_alone(tmp_path: Path) -> None:
    replace_file(tmp_path / "a", b"x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
