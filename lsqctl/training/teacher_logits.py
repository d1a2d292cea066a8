"""A teacher's logits for views of each training image: computed once, used by every run.

A store is a folder ``teachers/KEY`` in the data folder. Its key is the sha256 of what the logits
depend on: the teacher's bytes and network, the images' digest, and how they are augmented. A view
is one file: a sha256 for each chunk of images, then fp16 logits (images, classes), in the order of
the dataset. A chunk counts where its hash fits; all others are computed, so that a file that was
cut, or is half-made, is completed. Who computes holds a lock on the file. No torch.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsqctl.errors import DataError
from lsqctl.ownership import make_private_dir, open_regular
from lsqctl.run import JsonObject
from lsqctl.training.logit_stores import ABOUT, FOLDER

CHUNK_IMAGES = 250
Logits = NDArray[np.float16]  # (images, classes)
Compute = Callable[[Sequence[NDArray[np.int64]]], Iterable[NDArray[np.float32]]]

_HASH_BYTES = 32
_LOCK_POLL_SECONDS = 0.2
_LOGIT = np.dtype("<f2")


@dataclass(frozen=True, slots=True)
class View:
    """The logits of one view, their digest, and what had to be done to have them."""

    logits: Logits
    digest: str
    path: Path
    images_computed: int
    images_damaged: int
    waited: bool


class TeacherLogits:
    """The store of one teacher on one set of images: (images, classes) a view.

    ``about`` holds, as plain values, all that the logits depend on.
    """

    def __init__(self, data_dir: Path, about: JsonObject, shape: tuple[int, int]) -> None:
        text = json.dumps([about, shape, CHUNK_IMAGES], sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self.folder = data_dir / FOLDER / self.key[:32]
        self.about = about
        self.shape = shape

    def load(self, view: int, compute: Compute, check_stop: Callable[[], None]) -> View:
        """Return a view; ``compute`` gives the logits of the chunks of images that are missing.

        ``check_stop`` may raise, while another run computes and between chunks: what is computed
        stays. Raises DataError where the folder cannot be written or a logit is too large for
        fp16, and OSError.
        """
        path = self.folder / f"view-{view:04d}"
        self._make_folder()
        with _locked(path, check_stop) as (descriptor, waited):
            file = _ViewFile(descriptor, f"{self.key} {view}", self.shape)
            missing, images_damaged = file.missing()
            chunks = [file.indices(chunk) for chunk in missing]
            for chunk, computed in zip(missing, compute(chunks) if chunks else (), strict=True):
                file.write(chunk, _halved(computed))
                check_stop()
            if missing:
                os.fsync(descriptor)
            os.utime(descriptor)
            logits, digest = file.content()
        images_computed = sum(map(len, chunks))
        return View(logits, digest, path, images_computed, images_damaged, waited)

    def _make_folder(self) -> None:
        try:
            make_private_dir(self.folder)
            if not (self.folder / ABOUT).exists():
                temporary = self.folder / f"{ABOUT}.{os.getpid()}"
                temporary.write_text(json.dumps(self.about, indent=2, sort_keys=True) + "\n")
                temporary.replace(self.folder / ABOUT)
        except OSError as error:
            raise _unwritable(self.folder, error) from None


class _ViewFile:
    """One open file: hashes of chunks, then the chunks; ``name`` is part of every hash."""

    def __init__(self, descriptor: int, name: str, shape: tuple[int, int]) -> None:
        self._descriptor, self._name = descriptor, name
        self._images, self._classes = shape
        self._chunks = -(-self._images // CHUNK_IMAGES)
        self._row_bytes = self._classes * _LOGIT.itemsize
        self._table_bytes = self._chunks * _HASH_BYTES
        self._size = self._table_bytes + self._images * self._row_bytes

    def indices(self, chunk: int) -> NDArray[np.int64]:
        """Return the images of a chunk."""
        start = chunk * CHUNK_IMAGES
        return np.arange(start, min(start + CHUNK_IMAGES, self._images))

    def missing(self) -> tuple[list[int], int]:
        """Return the chunks to compute, and how many images were there and are damaged."""
        size = os.fstat(self._descriptor).st_size
        if size != self._size:
            os.ftruncate(self._descriptor, self._size)
        data = self._read()
        missing = [c for c in range(self._chunks) if self._stored(data, c) != self._hash(data, c)]
        was_cut = 0 < size < self._size
        damaged = [c for c in missing if was_cut or any(self._stored(data, c))]
        return missing, sum(len(self.indices(chunk)) for chunk in damaged)

    def write(self, chunk: int, logits: Logits) -> None:
        """Write a chunk and then its hash, which makes it count."""
        data = np.ascontiguousarray(logits, _LOGIT).tobytes()
        _write_all(self._descriptor, data, self._offset(chunk))
        _write_all(self._descriptor, self._digest(chunk, data), chunk * _HASH_BYTES)

    def content(self) -> tuple[Logits, str]:
        """Return all logits, and the digest of the view."""
        data = self._read()
        logits = np.frombuffer(data, _LOGIT, offset=self._table_bytes)
        digest = hashlib.sha256(data[: self._table_bytes]).hexdigest()
        return logits.reshape(self._images, self._classes), digest

    def _read(self) -> bytes:
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            return file.read()

    def _offset(self, chunk: int) -> int:
        return self._table_bytes + chunk * CHUNK_IMAGES * self._row_bytes

    def _stored(self, data: bytes, chunk: int) -> bytes:
        return data[chunk * _HASH_BYTES : (chunk + 1) * _HASH_BYTES]

    def _hash(self, data: bytes, chunk: int) -> bytes:
        length = len(self.indices(chunk)) * self._row_bytes
        return self._digest(chunk, data[self._offset(chunk) : self._offset(chunk) + length])

    def _digest(self, chunk: int, data: bytes) -> bytes:
        return hashlib.sha256(f"{self._name} {chunk}\n".encode() + data).digest()


@contextmanager
def _locked(path: Path, check_stop: Callable[[], None]) -> Iterator[tuple[int, bool]]:
    """Open a view's file, alone; yield its descriptor and whether another run had to be awaited."""
    try:
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise _unwritable(path, error) from None
    waited = False
    try:
        while not _try_lock(descriptor):
            waited = True
            check_stop()
            time.sleep(_LOCK_POLL_SECONDS)
        yield descriptor, waited
    finally:
        os.close(descriptor)  # which gives up the lock


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], offset + written)


def _halved(logits: NDArray[np.float32]) -> Logits:
    """Return logits in fp16; raises DataError where one is not finite there."""
    with np.errstate(over="ignore"):
        half = logits.astype(_LOGIT)
    if not np.isfinite(half).all():
        raise DataError(
            f"a logit of the teacher is {np.abs(logits).max():g}, which fp16 does not hold: leave "
            "distill.cache out"
        )
    return half


def _unwritable(path: Path, error: OSError) -> Exception:
    """Return what an error means: a folder that is not ours to write, or a machine's fault."""
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.EINVAL):
        return error
    reason = str(error.strerror).lower()
    return DataError(
        f"{path}: {reason}: the teacher's logits are kept in the data folder; make it writable, or "
        "leave distill.cache out"
    )
