"""`data check`: read every image of a dataset once, and name all that cannot be read.

Said too, for nothing is refused for it: images that lose bits, and those in train and val alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lsqctl.datasets import DATASETS
from lsqctl.datasets.array_checks import read_plugin_dataset
from lsqctl.datasets.identity import load_dataset
from lsqctl.datasets.image_files import (
    Decoder,
    ImageFile,
    check_decoder,
    file_sha256,
    has_deep_channels,
    open_image,
)
from lsqctl.datasets.image_folders import FolderDataset, FolderSplit
from lsqctl.datasets.in_memory import Arrays, InMemoryDataset
from lsqctl.datasets.presence import check_dataset_present, image_folders, missing_dataset_error
from lsqctl.discovery import plugin_faults
from lsqctl.errors import DataError, NotFound
from lsqctl.settings import Settings, expand_home
from lsqctl.text import did_you_mean

_TOGETHER = 256  # images that are asked for at once
_REPORT_EVERY = 10_000  # images
_MAX_EXAMPLES = 2


@dataclass(frozen=True, slots=True)
class UnreadableImage:
    """A file, or one image of a packed file, and why it cannot be read."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Findings:
    """How many images are so, and the first of them by name."""

    count: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckedData:
    """What was read of which dataset, folder or file, and what was passed over in the folder.

    ``deep`` images have more than 8 bits a channel, which training does not see; ``in_both`` are
    those of val that are in train too, byte for byte.
    """

    name: str
    train: int
    val: int
    unreadable: tuple[UnreadableImage, ...]
    notes: tuple[str, ...] = ()
    deep: Findings = Findings()
    in_both: Findings = Findings()


def check_data(
    target: str,
    settings: Settings,
    *,
    threads: int = 1,
    decoder: Decoder = "pil",
    notify: Callable[[str], None],
) -> CheckedData:
    """Decode every image of a folder, packed file, list or dataset; a packed one's bytes, too.

    ``decoder`` is a recipe's ``data.decoder``. Datasets in memory are read as training reads them.
    Raises NotFound for what is not there, and DataError for what cannot be listed, or is damaged as
    a whole, and for a decoder that is not installed.
    """
    check_decoder(decoder)
    dataset, data_dir = _find(target, settings), settings.data_dir
    plugin = DATASETS.plugin_of(dataset.name)
    with plugin_faults(plugin):
        if isinstance(dataset, FolderDataset):
            read = partial(_read_all, decoder=decoder, threads=threads, notify=notify)
            return _check_images(target, dataset, data_dir, read)
        splits = read_plugin_dataset(dataset, data_dir) if plugin else dataset.read(data_dir)
    if splits is None:
        raise missing_dataset_error(dataset.name, data_dir)
    train, evaluation, note = splits
    return CheckedData(
        target,
        len(train[1]),
        len(evaluation[1]),
        (),
        (note,),
        in_both=_in_both(_named_arrays("train", train), _named_arrays("val", evaluation)),
    )


def _find(target: str, settings: Settings) -> InMemoryDataset | FolderDataset:
    """Return the dataset of a name, or what a path names, from here or from the data folder."""
    path, data_dir = expand_home(Path(target)), settings.data_dir
    for place in (path, data_dir / path) if target not in {*DATASETS} else ():
        if place.exists():
            return FolderDataset("imagefolder", str(place.absolute()))
    if target in DATASETS:
        check_dataset_present(target, data_dir)
        return load_dataset(target, None)
    near = did_you_mean(target, {*DATASETS, *image_folders(data_dir)})
    raise NotFound(
        f"no dataset is named `{target}`, and there is no such folder or file, here or in "
        f"{data_dir}{near}"
    )


@dataclass(frozen=True, slots=True)
class _ReadImage:
    """What reading one image has shown: why it cannot be read (or nothing), and its sha256."""

    fault: str
    sha256: str = ""
    deep: bool = False


def _check_images(
    target: str,
    dataset: FolderDataset,
    data_dir: Path,
    read: Callable[[Sequence[ImageFile]], Iterator[_ReadImage]],
) -> CheckedData:
    train, evaluation = dataset.list_splits(data_dir)
    files = list(dict.fromkeys(file for split in (train, evaluation) for file, _ in split.files))
    images = dict(zip(files, read(files), strict=True))

    def named(split: FolderSplit) -> Iterator[tuple[str, str]]:
        return ((images[file].sha256, str(file)) for file, _ in split.files if images[file].sha256)

    return CheckedData(
        target,
        len(train.files),
        len(evaluation.files),
        tuple(UnreadableImage(str(f), image.fault) for f, image in images.items() if image.fault),
        train.notes + evaluation.notes,
        _findings([str(file) for file, image in images.items() if image.deep]),
        _in_both(named(train), named(evaluation)),
    )


def _named_arrays(split: str, arrays: Arrays) -> Iterator[tuple[str, str]]:
    """Yield the sha256 of each image's pixels, and the image's place in its split."""
    for number, image in enumerate(arrays[0]):
        yield hashlib.sha256(image.tobytes()).hexdigest(), f"{split} {number}"


def _in_both(train: Iterable[tuple[str, str]], evaluation: Iterable[tuple[str, str]]) -> Findings:
    """Return which images of ``evaluation``, (sha256, name) each, are in ``train`` too."""
    train_names: dict[str, str] = {}
    for sha256, name in train:
        train_names.setdefault(sha256, name)
    return _findings(
        [f"{name} is {train_names[sha256]}" for sha256, name in evaluation if sha256 in train_names]
    )


def _findings(names: Sequence[str]) -> Findings:
    return Findings(len(names), tuple(names[:_MAX_EXAMPLES]))


def _read_all(
    files: Sequence[ImageFile],
    *,
    decoder: Decoder,
    threads: int,
    notify: Callable[[str], None],
) -> Iterator[_ReadImage]:
    """Yield what reading each image shows, in order, and say how far it is."""
    n_faults = 0
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(files), _TOGETHER):
            part = files[start : start + _TOGETHER]
            for image in pool.map(partial(_read, decoder), part):
                n_faults += bool(image.fault)
                yield image
            done = start + len(part)
            if start // _REPORT_EVERY != done // _REPORT_EVERY:
                notify(f"{done:,} of {len(files):,} images, {n_faults:,} cannot be read")


def _read(decoder: Decoder, file: ImageFile) -> _ReadImage:
    """Decode one image, as training does with this decoder."""
    try:
        with open_image(file) as opened:
            deep = has_deep_channels(opened)
            if decoder == "pil":
                opened.convert("RGB")
        if decoder != "pil":
            from lsqctl.training.image_folder import decode

            decode(file, decoder)
        return _ReadImage("", file_sha256(file), deep)
    except DataError as error:
        return _ReadImage(str(error).removeprefix(f"{file} "))
    except OSError as error:
        return _ReadImage(f"cannot be read: {error.strerror}")
