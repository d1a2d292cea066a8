"""Lists that ``data.path`` may name: image files with labels, or folders taken together.

    shapes.csv    file,label,split        a line an image; split is train or val
                  day/01.png,cat,train
    shapes.txt    day                     a line a folder of images, a packed file, or a .csv
                  night.pack

Paths are meant from the list's own folder, or are absolute. No torch and no numpy.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lsqctl.datasets.image_files import IMAGE_DECODERS, is_image_name
from lsqctl.datasets.image_pack import SPLITS
from lsqctl.errors import DataError
from lsqctl.ownership import open_regular
from lsqctl.text import did_you_mean

FILE_LIST, FOLDER_LIST = ".csv", ".txt"
COLUMNS = ("file", "label", "split")
_LAYOUT = "file,label,split"


class ListedImage(NamedTuple):
    """One line of a list of files: the image's path, and the name of its class."""

    path: str
    label: str


def is_list(path: Path) -> bool:
    """Return whether a path names a list of either kind, by its ending; nothing is opened."""
    return path.suffix in {FILE_LIST, FOLDER_LIST} and path.is_file()


def begins_as_list(path: Path) -> bool:
    """Return whether a file begins as a list does: with the columns, or with a folder of images."""
    try:
        first = next(_lines(path), (0, ""))[1]
    except DataError:
        return False
    if path.suffix == FILE_LIST:
        return tuple(first.split(",")) == COLUMNS
    folder = path.parent / first
    return bool(first) and (folder.is_file() or any((folder / split).is_dir() for split in SPLITS))


def read_folder_list(path: Path) -> list[Path]:
    """Return what each line names; raises DataError where one names nothing, or all is empty.

    Empty lines and lines that begin with # are passed over.
    """
    entries: list[Path] = []
    for number, line in _lines(path):
        entry = path.parent / line
        if not entry.exists():
            near = did_you_mean(line, [other.name for other in path.parent.iterdir()])
            raise DataError(f"{path}:{number}: there is no {entry}{near}")
        if entry.suffix == FOLDER_LIST and entry.is_file():
            raise DataError(f"{path}:{number}: {line} is a list of folders: name its lines here")
        if entry in entries:
            raise DataError(f"{path}:{number}: {line} stands there already; remove one of them")
        entries.append(entry)
    if not entries:
        raise DataError(f"{path} is empty: write a folder of images a line")
    return entries


def read_file_list(path: Path) -> dict[str, list[ListedImage]]:
    """Return the images of each split, in the order of the lines; no image is opened.

    Raises DataError for a line that is none, and for an image that is not there, or there twice.
    """
    splits: dict[str, list[ListedImage]] = {split: [] for split in SPLITS}
    seen: dict[str, int] = {}
    for number, image, split in _rows(path):
        if first := seen.get(image.path):
            raise DataError(
                f"{path}:{number}: {image.path} stands in line {first} already; an image is "
                "trained on or evaluated, once"
            )
        seen[image.path] = number
        splits[split].append(image)
    for split, images in splits.items():
        if not images:
            raise DataError(f"{path}: no line says {split} in its third column; both are needed")
    return splits


def _rows(path: Path) -> Iterator[tuple[int, ListedImage, str]]:
    lines = _lines(path)
    header = next(lines, (0, ""))[1]
    if tuple(header.split(",")) != COLUMNS:
        raise DataError(f"{path}: its first line is not {_LAYOUT}")
    for number, line in lines:
        try:
            (row,) = csv.reader([line], strict=True)
        except (csv.Error, ValueError):
            row = []
        if len(row) != len(COLUMNS) or not all(cell.strip() for cell in row):
            raise DataError(f"{path}:{number}: is not {_LAYOUT}: {line[:80]}")
        name, label, split = (cell.strip() for cell in row)
        if split not in SPLITS:
            near = did_you_mean(split, SPLITS)
            raise DataError(f"{path}:{number}: `{split}` is no split: train or val{near}")
        yield number, ListedImage(_image_path(path, number, name), label), split


def _image_path(path: Path, number: int, name: str) -> str:
    image = os.path.normpath(path.parent / name)
    if not is_image_name(name):
        raise DataError(
            f"{path}:{number}: {name} is no image by its ending ({' '.join(IMAGE_DECODERS)})"
        )
    if not os.path.isfile(image):
        raise DataError(f"{path}:{number}: there is no file {image}")
    return image


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that says something."""
    try:
        with os.fdopen(open_regular(path.resolve()), encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                text = line.strip()
                if text and not text.startswith("#"):
                    yield number, text
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8") from None
