"""A folder of images as one indexed file: its layout, written in one pass and read by offset.

    8 bytes    LSQPACK1
    …          the images, encoded as JPEG, PNG, …, one after the other
    INDEX      UTF-8 JSON: layout 1, resize, encoder, classes, and splits: of train and of val
               a list of [name, label, offset, size, sha256]
    8 bytes    the length of INDEX, little endian
    32 bytes   the sha256 of INDEX
    8 bytes    LSQPACK1

So the sha256 of the index names every byte of it. No torch and no numpy.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lsqctl.errors import DataError
from lsqctl.ownership import open_regular

MAGIC, LAYOUT, SUFFIX = b"LSQPACK1", 1, ".pack"
SPLITS = ("train", "val")
_FOOTER = struct.Struct("<Q32s8s")


class PackedImage(NamedTuple):
    """One image of a packed file; ``name`` is its path in the split, as ``cat/1.jpg``."""

    pack: str
    name: str
    offset: int
    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.pack}: {self.name}"

    def read(self) -> bytes:
        """Return the bytes; raises DataError where they are not those that were packed."""
        with _open(Path(self.pack)) as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise DataError(f"{self} is damaged: {_AGAIN}")
        return data


Entries = list[tuple[PackedImage, int]]  # images and their labels


class SourceImage(NamedTuple):
    """One image to be packed: where it goes, and its bytes."""

    split: str
    name: str
    label: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ImagePack:
    """What the index of a packed file says.

    ``resize`` is what shorter sides were reduced to, in pixels; ``files`` holds images and labels
    by split; ``digest`` is the sha256 of the index.
    """

    resize: int
    classes: list[str]
    files: Mapping[str, Entries]
    digest: str


def write_pack(
    file: BinaryIO,
    images: Iterable[SourceImage],
    *,
    classes: list[str],
    resize: int,
    encoder: str,
) -> None:
    """Write a packed file from its first byte to its last."""
    splits: dict[str, list[list[object]]] = {split: [] for split in SPLITS}
    file.write(MAGIC)
    offset = len(MAGIC)
    for image in images:
        file.write(image.data)
        sha256 = hashlib.sha256(image.data).hexdigest()
        splits[image.split].append([image.name, image.label, offset, len(image.data), sha256])
        offset += len(image.data)
    index = {"layout": LAYOUT, "resize": resize, "encoder": encoder, "classes": classes}
    text = json.dumps(index | {"splits": splits}, sort_keys=True, separators=(",", ":")).encode()
    file.write(text)
    file.write(_FOOTER.pack(len(text), hashlib.sha256(text).digest(), MAGIC))


_AGAIN = "fetch it again, or pack its folder again with `lsqctl data pack`"


def read_pack(path: Path) -> ImagePack:
    """Return what the index of a packed file says; no image is read.

    Raises DataError for a file that is none, was cut, or whose index is damaged or does not fit it.
    """
    with _open(path) as file:
        status = os.fstat(file.fileno())
    return _read_pack(path, status.st_ino, status.st_size, status.st_mtime_ns)


def check_packed_images(path: Path) -> None:
    """Read every image of a packed file; raises DataError for one that is damaged."""
    for images in read_pack(path).files.values():
        for image, _ in images:
            image.read()


@lru_cache(maxsize=4)
def _read_pack(path: Path, _inode: int, _size: int, _mtime_ns: int) -> ImagePack:
    """Read an index, which takes seconds for a million images, once while the file is the same."""
    text, start = _read_index(path)
    try:
        pack = _parse(str(path), json.loads(text), hashlib.sha256(text).hexdigest(), start)
    except (ValueError, RecursionError):
        raise DataError(f"{path}: its index is none of layout {LAYOUT}: {_AGAIN}") from None
    check_class_names(pack.classes, path)
    for split, images in pack.files.items():
        if empty := sorted({*range(len(pack.classes))} - {label for _, label in images}):
            name = pack.classes[empty[0]]
            raise DataError(f"{path}: {split} has no image of {name}: every class needs some")
    return pack


def check_class_names(classes: Iterable[str], where: Path) -> None:
    """Raise DataError for a class whose name is no text: results name the classes."""
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(name).decode(errors="backslashreplace")
            raise DataError(
                f"{where}: the name of the class {shown} is no text in UTF-8: rename its folder"
            ) from None


def _read_index(path: Path) -> tuple[bytes, int]:
    """Return the text of the index and its offset."""
    with _open(path) as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise DataError(
                f"{path} is no packed images: it does not begin with {MAGIC.decode()}; "
                "`lsqctl data pack` writes them"
            )
        end = file.seek(0, os.SEEK_END) - _FOOTER.size
        file.seek(max(0, end))
        footer = file.read()
        length, digest, magic = (
            _FOOTER.unpack(footer) if len(footer) == _FOOTER.size else (0, b"", b"")
        )
        if magic != MAGIC or length > end - len(MAGIC):
            raise DataError(f"{path} was cut: its end is missing; {_AGAIN}")
        file.seek(end - length)
        text = file.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise DataError(f"{path}: its index is damaged; {_AGAIN}")
    return text, end - length


def _parse(pack: str, index: object, digest: str, end: int) -> ImagePack:
    """Return a checked index; raises ValueError where it is none.  Images end at ``end``."""
    match index:
        case {"layout": 1, "resize": int(resize), "classes": [*classes], "splits": {**splits}}:
            names = [str(name) for name in classes]
            if names == sorted({*classes}) and {*splits} == {*SPLITS}:
                files = {
                    split: _parse_entries(pack, splits[split], len(names), end) for split in SPLITS
                }
                return ImagePack(resize, names, files, digest)
    raise ValueError


def _parse_entries(pack: str, entries: object, classes: int, end: int) -> Entries:
    if not isinstance(entries, list):
        raise ValueError
    return [_parse_entry(pack, entry, classes, end) for entry in entries]


def _parse_entry(pack: str, entry: object, classes: int, end: int) -> tuple[PackedImage, int]:
    match entry:
        case [str(name), int(label), int(offset), int(size), str(sha256)]:
            if 0 <= label < classes and len(MAGIC) <= offset and 0 < size <= end - offset:
                return PackedImage(pack, name, offset, size, sha256), label
    raise ValueError


def _open(path: Path) -> BinaryIO:
    try:
        return os.fdopen(open_regular(path.resolve()), "rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
