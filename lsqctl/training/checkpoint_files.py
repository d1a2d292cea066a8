"""The files of a checkpoint: synced to disk, hashed in a manifest, one folder a step.

What the folders of a run are called is known here and nowhere else. No torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from lsqctl.errors import DataError
from lsqctl.failpoint import failpoint
from lsqctl.ownership import read_regular
from lsqctl.run import JsonObject

MANIFEST_SCHEMA = 1
MANIFEST_NAME = "manifest.json"


def manifest_sha256(folder: Path) -> str:
    """Return the sha256 of a checkpoint's manifest, which holds those of all files."""
    return hashlib.sha256(_read_bytes(folder / MANIFEST_NAME)).hexdigest()


def encode_manifest(body: JsonObject) -> bytes:
    """Return the manifest with a hash of itself, so that no bit of it can flip unseen."""
    return json.dumps({**body, "self_sha256": _body_sha256(body)}, sort_keys=True).encode()


def _body_sha256(body: JsonObject) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> JsonObject:
    """Return a checkpoint's manifest; raises DataError when a bit of it is not as written."""
    path = folder / MANIFEST_NAME
    data = _read_bytes(path)
    try:
        manifest = json.loads(data)
        body = {key: value for key, value in manifest.items() if key != "self_sha256"}
    except (ValueError, AttributeError):
        raise DataError(f"{path} is damaged") from None
    if encode_manifest(body) != data:
        actual, expected = _body_sha256(body), manifest.get("self_sha256")
        raise DataError(f"{path} is damaged: its own sha256 is {actual}, it says {expected}")
    if body["schema"] != MANIFEST_SCHEMA:
        raise DataError(f"{path} has schema {body['schema']}; this lsqctl reads {MANIFEST_SCHEMA}")
    return body


def _read_bytes(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def read_verified(folder: Path, manifest: JsonObject, name: str) -> bytes:
    """Return a file's bytes after checking these very bytes; raises DataError naming the file."""
    data, expected = _read_bytes(folder / name), manifest["files"][name]
    if len(data) != expected["size"]:
        raise DataError(f"{folder / name} has {len(data)} bytes instead of {expected['size']}")
    if (actual_sha256 := hashlib.sha256(data).hexdigest()) != expected["sha256"]:
        path, expected_sha256 = folder / name, expected["sha256"]
        raise DataError(
            f"{path} is damaged: its sha256 is {actual_sha256}, the manifest says {expected_sha256}"
        )
    return data


class DurableFile:
    """A new file, readable by its owner alone, for ``torch.save`` and for bytes.

    ``write_error`` keeps a write's first error, for torch turns it into a RuntimeError without a
    number. Raises FileExistsError rather than follow a link or overwrite.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb")
        self._hash = hashlib.sha256()
        self.size = 0
        self.write_error: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
        except OSError:  # what a failed write left buffered; the first error counts
            if kind is None:
                raise

    def write(self, data: bytes | memoryview) -> int:
        """Write all of ``data``."""
        try:
            written = self._file.write(data)
        except OSError as error:
            self.write_error = self.write_error or error
            raise
        self._hash.update(data)
        self.size += written
        return written

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._file.flush()

    def sync(self) -> None:
        """Return when the bytes are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def hexdigest(self) -> str:
        """Return the sha256 of what was written."""
        return self._hash.hexdigest()


def fsync_dir(folder: Path) -> None:
    """Return when the folder's entries are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_BACKUP_SUFFIX = ".old"  # a checkpoint while another of its step replaces it
_CHECKPOINT_NAME = re.compile(r"ckpt-(\d{8,})(\.old)?")
_TEMPORARY_NAME = re.compile(r"ckpt\.tmp\.([0-9a-f]+)")
_DAMAGED_PREFIX = "damaged-"
_KEEP_LAST = 2


def checkpoint_dir(run_dir: Path, step: int) -> Path:
    """Return the path of the checkpoint of a step, once it is complete."""
    return run_dir / f"ckpt-{step:08d}"


def temporary_dir(run_dir: Path, fence: str) -> Path:
    """Return the path of the checkpoint that an attempt, by its fence, is writing."""
    return run_dir / f"ckpt.tmp.{fence}"


def temporary_dirs(run_dir: Path) -> dict[Path, str]:
    """Return the checkpoints that are being written, or were, each with its attempt's fence."""
    paths = sorted(run_dir.glob("ckpt.tmp.*"))
    matches = {path: _TEMPORARY_NAME.fullmatch(path.name) for path in paths}
    return {path: match[1] for path, match in matches.items() if match}


def quarantine(folder: Path) -> None:
    """Rename a damaged checkpoint, so that it counts as none."""
    folder.rename(folder.with_name(_DAMAGED_PREFIX + folder.name))


def quarantined_dirs(run_dir: Path) -> list[Path]:
    """Return the damaged checkpoints."""
    paths = sorted(run_dir.glob(f"{_DAMAGED_PREFIX}*"))
    names = {path: path.name.removeprefix(_DAMAGED_PREFIX) for path in paths}
    return [path for path, name in names.items() if _CHECKPOINT_NAME.fullmatch(name)]


def without_lease(work: Callable[[], None]) -> None:
    """Do the work at once: there is no lease, hence no other owner."""
    work()


def remove_checkpoints(folders: Iterable[Path]) -> None:
    """Remove checkpoints that are no longer kept; only the run's owner may call this."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def commit_checkpoint(temporary: Path, final: Path) -> None:
    """Rename over ``final``; the one before stays as ``.old``, which is read in its place."""
    backup = final.with_name(final.name + _BACKUP_SUFFIX)
    if final.exists():
        shutil.rmtree(backup, ignore_errors=True)
        final.rename(backup)
        failpoint("checkpoint.between-renames")
    temporary.rename(final)
    fsync_dir(final.parent)


def checkpoint_dirs(run_dir: Path) -> list[Path]:
    """Return the checkpoint folders, newest first; a replaced one after its replacement."""
    matches = []
    for folder in run_dir.glob("ckpt-*"):
        if match := _CHECKPOINT_NAME.fullmatch(folder.name):
            matches.append((int(match[1]), match[2] is None, folder))
    return [folder for *_, folder in sorted(matches, reverse=True)]


def superseded(run_dir: Path, written: Path, best_step: int | None) -> tuple[Path, ...]:
    """Return what need not be kept beside the one just written, the one before, and their best.

    The one before may be gone back to, and then its own best is wanted, not the newer one.
    """
    folders = checkpoint_dirs(run_dir)
    backups = [
        folder
        for folder in folders
        if folder.suffix == _BACKUP_SUFFIX and folder.with_suffix("") in folders
    ]
    others = [folder for folder in folders if folder not in backups and folder != written]
    kept, older = others[: _KEEP_LAST - 1], others[_KEEP_LAST - 1 :]
    best = {checkpoint_dir(run_dir, step) for step in (best_step, *map(_best_step, kept)) if step}
    return (*backups, *(folder for folder in older if folder not in best))


def _best_step(folder: Path) -> int | None:
    try:
        best_step: int | None = read_manifest(folder)["best_step"]
    except DataError:
        return None  # nobody will go back to it
    return best_step
