"""What names the images of a training and of its evaluation: made of folders, and compared.

    sha256:TRAIN EVAL                of images in memory: pixels and labels
    listing-sha256:TRAIN EVAL        of folders, before 0.2: names, sizes and labels alone
    listing-sha256:TRAIN EVAL BYTES  of folders: and the bytes of the evaluated images

Each part has 32 hex digits. BYTES are the same for a folder and for packed images that hold its
files as they are. No torch and no numpy.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lsqctl.atomic_write import replace_file
from lsqctl.datasets.image_files import ImageFile
from lsqctl.datasets.image_folders import MAX_HASHED_BYTES
from lsqctl.datasets.image_pack import PackedImage
from lsqctl.errors import DataError, LsqctlError
from lsqctl.ownership import make_private_dir, read_regular

FOLDER = "digests"  # of the data folder: what was hashed already
_PARTS = re.compile(r"(listing-)?sha256:([0-9a-f]{32})([0-9a-f]{32})([0-9a-f]{32})?")
_READERS = 8  # threads: a disk or a network answers several at once
_TOGETHER = 64  # files that are asked for at once
_SETTLED_SECONDS = 2.0  # a file changed again within it may bear the same time


@dataclass(frozen=True, slots=True)
class DataDigest:
    """The parts of a digest; ``images`` is empty where the images' bytes are not part of it."""

    train: str
    listing: str
    images: str

    @classmethod
    def parse(cls, text: str) -> DataDigest:
        """Return the parts; of another text, which names all data at once, the whole of it."""
        if (match := _PARTS.fullmatch(text)) is None:
            whole = text.rpartition(":")[2]
            return cls(whole, whole, whole)
        listed, train, evaluation, images = match.groups(default="")
        return cls(train, evaluation, images if listed else evaluation)


def same_images(left: str, right: str) -> bool | None:
    """Return whether two digests name the same evaluated images; None where it cannot be told.

    It cannot where names and sizes agree, and the bytes of one were not recorded.
    """
    a, b = DataDigest.parse(left), DataDigest.parse(right)
    if a.images and b.images:
        return a.images == b.images
    return None if a.listing == b.listing else False


def same_data(left: str, right: str) -> bool | None:
    """Return as ``same_images``; other training images, by names and sizes, are other data."""
    same_training = DataDigest.parse(left).train == DataDigest.parse(right).train
    return same_images(left, right) if same_training else False


def evaluation_keys(digests: Iterable[str]) -> dict[str, str]:
    """Return for each digest what names its evaluated images among all of them.

    One without bytes joins the one set of bytes that is listed alike; among several of them it
    stands alone.
    """
    parsed = {text: DataDigest.parse(text) for text in digests}
    by_listing: dict[str, set[str]] = defaultdict(set)
    for digest in parsed.values():
        by_listing[digest.listing] |= {digest.images} - {""}
    return {
        text: digest.images or "".join(_only(by_listing[digest.listing])) or digest.listing
        for text, digest in parsed.items()
    }


def _only(images: set[str]) -> set[str]:
    return images if len(images) == 1 else set()


def folder_digest(train: str, listing: str, images: str) -> str:
    """Return the digest of folders, of the sha256 of each part."""
    return f"listing-sha256:{train[:32]}{listing[:32]}{images[:32]}"


def images_sha256(
    files: Sequence[tuple[ImageFile, int]],
    data_dir: Path,
    check_stop: Callable[[], None] = lambda: None,
) -> str:
    """Return the sha256 of the bytes and labels of images, in their order, however they lie.

    Of packed ones the index has them. What loose files of more than MAX_HASHED_BYTES hold is read
    once, and kept in the data folder with their sizes and times of change, while these stay as
    they are. ``check_stop`` may raise, between files. Raises DataError for one that cannot be read.
    """
    loose = [file for file, _ in files if not isinstance(file, PackedImage)]
    try:
        state, size, newest = _state(loose)
        if size <= MAX_HASHED_BYTES:
            return _hash_images(files, check_stop)
        kept = data_dir / FOLDER / hashlib.sha256(repr(files).encode()).hexdigest()[:32]
        if (digest := _recall(kept, state)) is None:
            digest = _hash_images(files, check_stop)
            if newest < time.time() - _SETTLED_SECONDS:
                _keep(kept, state, digest)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from None
    return digest


def _state(paths: Iterable[str]) -> tuple[str, int, float]:
    """Return what tells whether files were changed, their bytes, and when the last was changed."""
    hasher, size, newest = hashlib.sha256(), 0, 0.0
    for path in paths:
        status = os.stat(path)
        size, newest = size + status.st_size, max(newest, status.st_ctime)
        times = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        hasher.update(repr(times).encode())
    return hasher.hexdigest(), size, newest


def _hash_images(files: Sequence[tuple[ImageFile, int]], check_stop: Callable[[], None]) -> str:
    hasher = hashlib.sha256()
    with ThreadPoolExecutor(_READERS) as pool:  # which reads what it was asked for, come what may
        for start in range(0, len(files), _TOGETHER):
            check_stop()
            part = files[start : start + _TOGETHER]
            hashes = pool.map(_sha256, [file for file, _ in part])
            for sha256, (_, label) in zip(hashes, part, strict=True):
                hasher.update(f"{sha256} {label}\n".encode())
    return hasher.hexdigest()


def _sha256(file: ImageFile) -> str:
    if isinstance(file, PackedImage):
        return file.sha256
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _recall(path: Path, state: str) -> str | None:
    try:
        kept_state, digest = read_regular(path).decode("ascii").split()
    except (OSError, ValueError):
        return None
    return digest if kept_state == state else None


def _keep(path: Path, state: str, digest: str) -> None:
    """Keep a digest where that is possible; where it is not, the images are read again."""
    with suppress(OSError, LsqctlError):
        make_private_dir(path.parent)
        replace_file(path, f"{state} {digest}\n".encode())
