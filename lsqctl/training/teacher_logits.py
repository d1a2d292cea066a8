"""A teacher's logits for views of each training image: computed once, used by every run.

A store is a folder ``teachers/KEY`` in the data folder. Its key is the sha256 of what the logits
depend on: the teacher's bytes and network (of a plugin's its source, of torchvision's and timm's
their version), the images' digest, and how they are augmented. A view is a folder of at most 16
parts. A part is one file: a sha256 for each chunk of images, then fp16 logits (images, classes),
in the order of the dataset. A chunk counts where its hash fits; all others are computed, so that a
file that was cut, or is half-made, is completed. Who computes a part holds a lock on its file; runs
that need the same view at once take different parts. No torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsqctl.atomic_write import is_out_of_inodes, replace_file
from lsqctl.errors import DataError, StoreError
from lsqctl.ownership import lock_file, make_private_dir, open_regular
from lsqctl.run import JsonObject
from lsqctl.text import format_bytes
from lsqctl.training.logit_stores import (
    ABOUT,
    CHUNK_IMAGES,
    FOLDER,
    HASH_BYTES,
    KEY_DIGITS,
    PARTS,
    chunks_of_parts,
    part_name,
)

Logits = NDArray[np.float16]  # (images, classes)
Compute = Callable[[Sequence[NDArray[np.int64]]], Iterable[NDArray[np.float32]]]

_LOCK_POLL_SECONDS = 0.2
_LOGIT = np.dtype("<f2")


@dataclass(frozen=True, slots=True)
class View:
    """The logits of one view, their digest, and what had to be done to have them.

    ``path`` is the folder of its parts. ``waited`` says whether another run computed one meanwhile.
    """

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
        text = json.dumps([about, shape, CHUNK_IMAGES, PARTS], sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self.folder = data_dir / FOLDER / self.key[:KEY_DIGITS]
        self.about = about
        self.shape = shape

    def load(self, view: int, compute: Compute, check_stop: Callable[[], None]) -> View:
        """Return a view; ``compute`` gives the logits of the chunks of images that are missing.

        What another run computes is left to it, and waited for last. ``check_stop`` may raise,
        while another run computes and between chunks: what is computed stays. Raises DataError
        where the folder cannot be written or a logit is too large for fp16, and OSError.
        """
        folder = self.folder / f"view-{view:04d}"
        self._make_folders(folder)
        logits = np.empty(self.shape, _LOGIT)
        parts = [
            _Part(folder / part_name(number), f"{self.key} {view}", chunks, logits)
            for number, chunks in enumerate(chunks_of_parts(self.shape[0]))
        ]
        in_work = [part for part in parts if not part.complete(compute, check_stop)]
        for part in in_work:
            part.complete(compute, check_stop, wait=True)
        digest = hashlib.sha256(b"".join(part.hashes for part in parts)).hexdigest()
        images_computed = sum(part.images_computed for part in parts)
        images_damaged = sum(part.images_damaged for part in parts)
        return View(logits, digest, folder, images_computed, images_damaged, bool(in_work))

    def _make_folders(self, view: Path) -> None:
        try:
            for folder in (self.folder, view):
                make_private_dir(folder)
            if not (self.folder / ABOUT).exists():
                about = self.about | {"shape": self.shape}
                text = json.dumps(about, indent=2, sort_keys=True) + "\n"
                replace_file(self.folder / ABOUT, text.encode())
        except StoreError as error:
            raise DataError(f"{error}; or leave distill.cache out") from None
        except OSError as error:
            raise _unwritable(self.folder, error) from None


class _Part:
    """One file of a view: hashes of chunks, then the chunks; ``name`` is part of every hash.

    ``logits`` are those of the whole view; once the part is complete, it has filled in its own.
    """

    def __init__(self, path: Path, name: str, chunks: range, logits: Logits) -> None:
        self._path, self._name, self._chunks = path, name, chunks
        images = len(logits)
        self._images = [
            np.arange(chunk * CHUNK_IMAGES, min((chunk + 1) * CHUNK_IMAGES, images))
            for chunk in chunks
        ]
        self._logits = logits[self._images[0][0] : self._images[-1][-1] + 1]
        self._row_bytes: int = logits.shape[1] * _LOGIT.itemsize
        self._table_bytes = len(chunks) * HASH_BYTES
        self._size = self._table_bytes + self._logits.nbytes
        self.hashes = b""
        self.images_computed = self.images_damaged = 0

    def complete(
        self, compute: Compute, check_stop: Callable[[], None], *, wait: bool = False
    ) -> bool:
        """Take the logits out of the file, computing what is missing, and return True.

        Without ``wait``, a part that another run computes is left as it is, and False returned.
        """
        with _opened(self._path, self._size) as descriptor:
            if self._take(descriptor):
                return True
            while not _try_lock(descriptor, self._path):
                if not wait:
                    return False
                check_stop()
                time.sleep(_LOCK_POLL_SECONDS)
            self._compute_missing(descriptor, compute, check_stop)
            if not self._take(descriptor):
                raise OSError(errno.EIO, "does not hold what was written to it", str(self._path))
        return True

    def _take(self, descriptor: int) -> bool:
        """Fill in the logits if every hash fits; what is written meanwhile does not fit."""
        data = _read(descriptor)
        if len(data) != self._size or self._missing(data):
            return False
        os.utime(descriptor)
        self.hashes = data[: self._table_bytes]
        stored = np.frombuffer(data, _LOGIT, offset=self._table_bytes)
        self._logits[:] = stored.reshape(self._logits.shape)
        return True

    def _compute_missing(
        self, descriptor: int, compute: Compute, check_stop: Callable[[], None]
    ) -> None:
        size = os.fstat(descriptor).st_size
        if size != self._size:
            with _written(self._path):
                os.ftruncate(descriptor, self._size)
        data = _read(descriptor)
        missing = self._missing(data)
        if not missing:  # another run has computed it since it was read
            return
        was_cut = size < self._size
        damaged = [n for n in missing if was_cut or any(self._stored_hash(data, n))]
        self.images_damaged += sum(len(self._images[n]) for n in damaged)
        chunks = [self._images[n] for n in missing]
        for n, computed in zip(missing, compute(chunks), strict=True):
            with _written(self._path):
                self._write(descriptor, n, _halved(computed))
            self.images_computed += len(self._images[n])
            check_stop()
        with _written(self._path):
            os.fsync(descriptor)

    def _missing(self, data: bytes) -> list[int]:
        """Return which of the part's chunks do not have the hash that is stored."""
        return [
            n for n in range(len(self._chunks)) if self._stored_hash(data, n) != self._hash(data, n)
        ]

    def _write(self, descriptor: int, n: int, logits: Logits) -> None:
        """Write a chunk and then its hash, which makes it count."""
        data = np.ascontiguousarray(logits, _LOGIT).tobytes()
        _write_all(descriptor, data, self._offset(n))
        _write_all(descriptor, self._digest(n, data), n * HASH_BYTES)

    def _offset(self, n: int) -> int:
        return self._table_bytes + n * CHUNK_IMAGES * self._row_bytes

    def _stored_hash(self, data: bytes, n: int) -> bytes:
        return data[n * HASH_BYTES : (n + 1) * HASH_BYTES]

    def _hash(self, data: bytes, n: int) -> bytes:
        length = len(self._images[n]) * self._row_bytes
        return self._digest(n, data[self._offset(n) : self._offset(n) + length])

    def _digest(self, n: int, data: bytes) -> bytes:
        return hashlib.sha256(f"{self._name} {self._chunks[n]}\n".encode() + data).digest()


@contextmanager
def _opened(path: Path, size: int) -> Iterator[int]:
    """Open a part's file, made at its full length; closing it gives up its lock."""
    try:
        descriptor, is_new = _open_or_make(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        if is_new:  # so that one of no bytes was cut
            with _written(path):
                os.ftruncate(descriptor, size)
        yield descriptor
    finally:
        os.close(descriptor)


def _open_or_make(path: Path) -> tuple[int, bool]:
    """Return a descriptor of a file, and whether this call has made it."""
    flags = os.O_RDWR | os.O_CREAT
    try:
        return open_regular(path, flags | os.O_EXCL), True
    except FileExistsError:
        return open_regular(path, flags), False


def _read(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return file.read()


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        return lock_file(descriptor, path)
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}: the teacher's logits are kept in the data folder; put it "
            "on another, or leave distill.cache out"
        ) from None


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


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Let an error of writing to an open file say which: the kernel does not."""
    try:
        yield
    except OSError as error:
        raise _unwritable(path, OSError(error.errno, error.strerror, str(path))) from None


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
_OF_ANOTHER_KIND = (errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.ENXIO)


def _unwritable(path: Path, error: OSError) -> Exception:
    """Return what an error means: not ours to write, of another kind, or a machine's fault."""
    if error.errno in _FULL:
        folder = next(place for place in path.parents if place.exists())
        free = format_bytes(shutil.disk_usage(folder).free)
        if is_out_of_inodes(folder):
            free = f"no inode, though {free}, are"
        return OSError(
            error.errno,
            f"disk full: {free} free on {folder}, where the teacher's logits are kept; make room, "
            "or leave distill.cache out",
        )
    if error.errno not in (*_NOT_OURS, *_OF_ANOTHER_KIND):
        return error
    if error.errno == errno.ENOTDIR:  # a file in a folder's place
        path = next(place for place in (path, *path.parents) if place.exists())
    remedy = "make it writable" if error.errno in _NOT_OURS else "remove it"
    return DataError(
        f"{path}: {str(error.strerror).lower()}: the teacher's logits are kept in the data folder; "
        f"{remedy}, or leave distill.cache out"
    )
