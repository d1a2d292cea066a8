"""Folders of images, one a class: listed in torchvision's order, and each file opened safely.

No torch and no numpy: a recipe is refused for a missing folder before it is queued.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.datasets import DATASETS, DatasetInfo
from lsqctl.datasets.image_lists import FOLDER_LIST, is_list, read_file_list, read_folder_list
from lsqctl.datasets.image_pack import (
    SPLITS,
    PackedImage,
    check_class_names,
    check_packed_images,
    read_pack,
)
from lsqctl.errors import DataError
from lsqctl.text import pluralize, sanitize

if TYPE_CHECKING:
    from PIL import Image

# Each ending with the decoder of Pillow that its files may reach, and no other: Pillow would try
# all it has, and an EPS file called x.png starts Ghostscript, which runs what the file says.
# The endings are those that torchvision's ImageFolder takes for an image; a test holds them equal.
IMAGE_DECODERS: Mapping[str, str] = {
    **dict.fromkeys((".jpg", ".jpeg"), "JPEG"),
    ".png": "PNG",
    **dict.fromkeys((".ppm", ".pgm"), "PPM"),
    ".bmp": "BMP",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".webp": "WEBP",
}
_FORMATS = tuple(dict.fromkeys(IMAGE_DECODERS.values()))
JPEG_FORMATS = ("JPEG", "MPO")  # a photo with a second picture, as telephones write them, is MPO
# What Pillow raises for bytes that are damaged, or were made to harm.
_IMAGE_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError),
    *(OSError, RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error),
)
MAX_IMAGE_PIXELS = 178_956_970  # above which Pillow opens none: half a gigabyte of RGB
_DEEP_MODES = ("I", "F")  # of 16 or 32 bits: what is above 255 would be cut off
MAX_HASHED_BYTES = 256_000_000  # about a second

ImageFile = str | PackedImage  # the path of a file of its own, or a part of a packed one


@dataclass(frozen=True, slots=True)
class FolderSplit:
    """The images of a split with their labels, the classes in order, and what was passed over."""

    files: list[tuple[ImageFile, int]]
    classes: list[str]
    notes: tuple[str, ...]


def images_root(data_dir: Path, folder: str) -> Path:
    """Return what ``data.path`` names: in the data folder, at home (``~``), or an absolute path."""
    return data_dir / os.path.expanduser(folder)  # unlike Path.expanduser, leaves an unknown ~user


class FolderDataset:
    """A folder in the data folder: ``train`` and ``val``, one folder a class in each, a file
    that `lsqctl data pack` made of one, or a list (``image_lists``).

    It bears the dataset's name unless ``folder``, which may be an absolute path, is given.
    """

    def __init__(self, name: str, folder: str | None = None) -> None:
        self.name, self.folder = name, folder or name
        self.info: DatasetInfo = DATASETS.find(name)

    def list_splits(self, data_dir: Path) -> tuple[FolderSplit, FolderSplit]:
        """Return training and evaluation split; raises DataError where they do not fit."""
        root = images_root(data_dir, self.folder)
        train, evaluation = self._list_root(root)
        expected = self.info.classes
        if train.classes != evaluation.classes or (expected and len(train.classes) != expected):
            raise DataError(
                f"{root}: {len(train.classes)} classes in train, {len(evaluation.classes)} in val"
                + (f", there should be {expected}" if expected else ", they should be the same")
                + _first_difference(train.classes, evaluation.classes)
            )
        return train, evaluation

    def _list_root(self, root: Path) -> tuple[FolderSplit, FolderSplit]:
        if is_list(root):
            if root.suffix == FOLDER_LIST:
                return _together([self._list_root(entry) for entry in read_folder_list(root)])
            return _list_files(root)
        list_split = self._list_packed if root.is_file() else self._list_split
        train, evaluation = (list_split(root / split) for split in SPLITS)
        return train, evaluation

    def _list_split(self, folder: Path) -> FolderSplit:
        if not folder.is_dir():
            raise DataError(
                f"{folder} is missing: {self.name} needs train and val, one folder a class in each"
            )
        check_class_folders(folder)
        classes = class_names(folder)
        if not classes:
            raise DataError(f"{folder} has no folder: put one for each class there")
        files, notes = list_images(folder)
        return FolderSplit(files, classes, notes)

    def check_use(self, data_dir: Path, *, resize: int, decoder: str) -> None:
        """Raise DataError for images packed smaller than ``resize``, and for no such decoder."""
        check_decoder(decoder)
        root = images_root(data_dir, self.folder)
        entries = read_folder_list(root) if is_list(root) and root.suffix == FOLDER_LIST else [root]
        for pack in entries:
            if pack.is_file() and not is_list(pack) and read_pack(pack).resize < resize:
                raise DataError(
                    f"data.resize: {pack} was packed with {read_pack(pack).resize} pixels, which "
                    f"would be enlarged to {resize}; pack the folder again with --resize {resize}"
                )

    def _list_packed(self, split: Path) -> FolderSplit:
        pack = read_pack(split.parent)
        return FolderSplit([*pack.files[split.name]], pack.classes, ())


def _first_difference(train: list[str], evaluation: list[str]) -> str:
    """Name a class that one split has and the other lacks."""
    for split, only in (("train", {*train} - {*evaluation}), ("val", {*evaluation} - {*train})):
        if only:
            return f" (only in {split}: {min(only)})"
    return ""


def _list_files(path: Path) -> tuple[FolderSplit, FolderSplit]:
    """Return the splits of a list of files; raises DataError for what is no list."""
    listed = read_file_list(path)
    train, evaluation = (
        _labelled([(image.path, image.label) for image in listed[split]], ()) for split in SPLITS
    )
    return train, evaluation


def _together(parts: Sequence[tuple[FolderSplit, FolderSplit]]) -> tuple[FolderSplit, FolderSplit]:
    """Return folders as one: a class that some of them have is a class of all."""
    train, evaluation = (
        _labelled(
            [(file, part.classes[label]) for part in splits for file, label in part.files],
            tuple(note for part in splits for note in part.notes),
        )
        for splits in zip(*parts, strict=True)
    )
    return train, evaluation


def _labelled(files: Sequence[tuple[ImageFile, str]], notes: tuple[str, ...]) -> FolderSplit:
    """Return a split of images and the names of their classes: labels are in order of names."""
    classes = sorted({name for _, name in files})
    labels = {name: label for label, name in enumerate(classes)}
    return FolderSplit([(file, labels[name]) for file, name in files], classes, notes)


def images_digest(root: Path, splits: Iterable[FolderSplit]) -> str:
    """Return what names the images of a dataset: their paths below ``root``, and their bytes.

    Of a list they are the paths from its folder, and each has its class and split beside.
    Of more than MAX_HASHED_BYTES their sizes stand for the bytes: reading ImageNet takes minutes.
    A packed file is named by its index, which has the hash of each image; of up to
    MAX_HASHED_BYTES they are checked. Raises DataError where one is damaged.
    """
    splits = tuple(splits)
    sizes = _file_sizes(splits)
    hashes_bytes = sum(sizes.values()) <= MAX_HASHED_BYTES
    if is_list(root):
        return _list_digest(root, splits, hashes_bytes=hashes_bytes)
    if root.is_file():
        if hashes_bytes:
            check_packed_images(root)
        return f"pack-sha256:{read_pack(root).digest}"
    hasher = hashlib.sha256()
    for path, size in sizes.items():
        assert isinstance(path, str)  # a folder's
        hasher.update(f"{os.path.relpath(path, root)}\0{size}\n".encode(errors="surrogateescape"))
        if hashes_bytes:
            hasher.update(Path(path).read_bytes())
    return f"{'images' if hashes_bytes else 'listing'}-sha256:{hasher.hexdigest()}"


def _list_digest(root: Path, splits: Iterable[FolderSplit], *, hashes_bytes: bool) -> str:
    hasher = hashlib.sha256()
    for name, split in zip(SPLITS, splits, strict=True):
        for file, label in split.files:
            path, part = (file.pack, file.sha256) if isinstance(file, PackedImage) else (file, "")
            where = os.path.relpath(path, root.parent)
            line = f"{where}\0{part}\0{split.classes[label]}\0{name}\0{file_size(file)}\n"
            hasher.update(line.encode(errors="surrogateescape"))
            if hashes_bytes:
                data = file.read() if isinstance(file, PackedImage) else Path(file).read_bytes()
                hasher.update(data)
    return f"{'images' if hashes_bytes else 'listing'}-sha256:{hasher.hexdigest()}"


def small_splits(splits: Iterable[FolderSplit]) -> list[ImageFile]:
    """Return the files of splits that are small enough for each to be opened at submit, or none."""
    sizes = _file_sizes(splits)
    return list(sizes) if sum(sizes.values()) <= MAX_HASHED_BYTES else []


def _file_sizes(splits: Iterable[FolderSplit]) -> dict[ImageFile, int]:
    return {path: file_size(path) for split in splits for path, _ in split.files}


def file_size(file: ImageFile) -> int:
    """Return the bytes of an image."""
    return file.size if isinstance(file, PackedImage) else os.stat(file).st_size


def _source(file: ImageFile, data: bytes | None) -> str | io.BytesIO:
    if data is None and isinstance(file, PackedImage):
        data = file.read()
    if data is None:
        assert isinstance(file, str)
        return file
    return io.BytesIO(data)


@contextlib.contextmanager
def open_image(file: ImageFile, data: bytes | None = None) -> Iterator[Image.Image]:
    """Open an image of one of the wanted formats; whatever Pillow raises is a DataError.

    ``data`` are its bytes, where they were read already.
    """
    from PIL import Image

    source = _source(file, data)
    try:
        with Image.open(source, formats=_FORMATS) as opened:
            if opened.mode.startswith(_DEEP_MODES):
                raise DataError(
                    f"{file} has pixels of {opened.mode}, which do not fit into 8 bits: save it "
                    "with 8 bits a channel"
                )
            yield opened
    except (*_IMAGE_ERRORS, Image.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{file} does not open as an image ({', '.join(_FORMATS)}): {reason}"
        ) from None


def check_image(path: ImageFile, *, resize: int, mode: str) -> None:
    """Raise DataError for a file that is no image, or becomes too large when it is resized.

    Its pixels are not decoded.
    """
    with open_image(path) as opened:
        size = opened.size
    check_resized(path, size, resize=resize, mode=mode)


def check_resized(path: ImageFile, size: tuple[int, int], *, resize: int, mode: str) -> None:
    """Raise DataError for an image of ``size`` that has too many pixels once it is resized.

    An image of 1 x 30,000 has few; with its shorter side at 256 it has two thousand million.
    """
    short, long = sorted(size)
    pixels = resize * resize if mode == "square" else resize * (resize * long // short)
    if pixels > MAX_IMAGE_PIXELS:
        raise DataError(
            f"{path} is {size[0]}x{size[1]}, and would have {pixels:,} pixels once resized to "
            f"{resize}: remove it, or say data.resize_mode: square"
        )


def check_decoder(decoder: str) -> None:
    """Raise DataError where what ``data.decoder`` names is not installed, or does not load."""
    if decoder != "torchcodec":
        return
    if importlib.util.find_spec("torchcodec") is None:
        raise DataError(
            "data.decoder: torchcodec is not installed: pip install 'lsqctl[torchcodec]', or say "
            "`decoder: pil`"
        )
    try:
        importlib.import_module("torchcodec.decoders")  # and torch, for those alone who decode so
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"data.decoder: torchcodec is installed and does not load: {reason}; install FFmpeg's "
            "libraries and a version for this torch, or say `decoder: pil`"
        ) from None


def is_image_name(name: str) -> bool:
    """Return whether a file is taken for an image, by its ending."""
    return name.lower().endswith(tuple(IMAGE_DECODERS))


def check_class_folders(split: Path) -> None:
    """Raise DataError for a class, a folder in ``split``, without an image; no file is opened."""
    classes = class_names(split) if split.is_dir() else []
    walk = ImageWalk.of_classes(split, classes)
    empty = [split / name for name in classes if next(walk.images(split / name), None) is None]
    if empty:
        more = f", and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise DataError(
            f"{empty[0]} has no image{more}: every class needs some "
            f"({' '.join(IMAGE_DECODERS)}); remove the folder, or fill it"
        )


def class_names(split: Path) -> list[str]:
    """Return the names of the folders in ``split``, one a class, sorted: their labels in order.

    Raises DataError for one that is no text: results name the classes.
    """
    with os.scandir(split) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    check_class_names(names, split)
    return names


def list_images(split: Path) -> tuple[list[tuple[ImageFile, int]], tuple[str, ...]]:
    """Return path and label of each image of a split, in torchvision's order, and notes.

    The notes say what was passed over: what is no regular file (reading a pipe would wait for
    ever), and links to folders that are listed already (a loop would multiply the images).
    """
    classes = class_names(split)
    walk = ImageWalk.of_classes(split, classes)
    files: list[tuple[ImageFile, int]] = [
        (os.path.join(*image), label)
        for label, name in enumerate(classes)
        for image in sorted(walk.images(split / name))
    ]
    return files, walk.notes(split)


@dataclass(slots=True)
class ImageWalk:
    """A walk through the classes of a split that enters no folder twice."""

    entered: set[tuple[int, int]]  # device and inode
    irregular: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    @classmethod
    def of_classes(cls, split: Path, classes: list[str]) -> ImageWalk:
        """Return a walk to which the split and its classes are not to be found below a class."""
        folders = [split, *(split / name for name in classes)] if classes else []
        return cls({_identity(os.stat(folder)) for folder in folders})

    def images(self, folder: Path) -> Iterator[tuple[str, str]]:
        """Yield folder and name of each image at or below ``folder``, in no order."""
        pending = [str(folder)]
        while pending:
            parent = pending.pop()
            with os.scandir(parent) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
                    if entry.is_dir():
                        pending += self._enter(entry)
                    elif is_image_name(entry.name):
                        if entry.is_file():
                            yield parent, entry.name
                        else:
                            self.irregular.append(entry.path)

    def _enter(self, entry: os.DirEntry[str]) -> list[str]:
        identity = _identity(entry.stat())
        if identity in self.entered:
            self.repeated.append(entry.path)
            return []
        self.entered.add(identity)
        return [entry.path]

    def notes(self, split: Path) -> tuple[str, ...]:
        """Say what was passed over, each kind with its first example."""
        kinds = (
            (self.irregular, "image name", "no regular file"),
            (self.repeated, "folder", "listed already, through a link"),
        )
        return tuple(
            f"{split}: passed over {pluralize(len(paths), noun)} ({reason}), first "
            + sanitize(min(paths))
            for paths, noun, reason in kinds
            if paths
        )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
