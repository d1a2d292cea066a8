"""`data check`: read every image of a dataset once, and name all that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lsqctl.datasets import DATASETS
from lsqctl.datasets.array_checks import read_plugin_dataset
from lsqctl.datasets.identity import load_dataset
from lsqctl.datasets.image_files import Decoder, ImageFile, check_decoder, open_image
from lsqctl.datasets.image_folders import FolderDataset
from lsqctl.datasets.in_memory import InMemoryDataset
from lsqctl.datasets.presence import check_dataset_present, image_folders, missing_dataset_error
from lsqctl.discovery import plugin_faults
from lsqctl.errors import DataError, NotFound
from lsqctl.settings import Settings, expand_home
from lsqctl.text import did_you_mean

_TOGETHER = 256  # images that are asked for at once
_REPORT_EVERY = 10_000  # images


@dataclass(frozen=True, slots=True)
class UnreadableImage:
    """A file, or one image of a packed file, and why it cannot be read."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class CheckedData:
    """What was read of which dataset, folder or file, and what was passed over in the folder."""

    name: str
    train: int
    val: int
    unreadable: tuple[UnreadableImage, ...]
    notes: tuple[str, ...] = ()


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
            unreadable = partial(
                _unreadable, fault=partial(_fault, decoder), threads=threads, notify=notify
            )
            return _check_images(target, dataset, data_dir, unreadable)
        splits = read_plugin_dataset(dataset, data_dir) if plugin else dataset.read(data_dir)
    if splits is None:
        raise missing_dataset_error(dataset.name, data_dir)
    train, evaluation, note = splits
    return CheckedData(target, len(train[1]), len(evaluation[1]), (), (note,))


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


def _check_images(
    target: str,
    dataset: FolderDataset,
    data_dir: Path,
    unreadable: Callable[[Sequence[ImageFile]], Iterator[UnreadableImage]],
) -> CheckedData:
    train, evaluation = dataset.list_splits(data_dir)
    files = list(dict.fromkeys(file for split in (train, evaluation) for file, _ in split.files))
    return CheckedData(
        target,
        len(train.files),
        len(evaluation.files),
        tuple(unreadable(files)),
        train.notes + evaluation.notes,
    )


def _unreadable(
    files: Sequence[ImageFile],
    fault: Callable[[ImageFile], str],
    threads: int,
    notify: Callable[[str], None],
) -> Iterator[UnreadableImage]:
    """Yield what does not decode, in order, and say how far it is."""
    found = 0
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(files), _TOGETHER):
            part = files[start : start + _TOGETHER]
            for file, reason in zip(part, pool.map(fault, part), strict=True):
                if reason:
                    found += 1
                    yield UnreadableImage(str(file), reason)
            done = start + len(part)
            if start // _REPORT_EVERY != done // _REPORT_EVERY:
                notify(f"{done:,} of {len(files):,} images, {found:,} cannot be read")


def _fault(decoder: Decoder, file: ImageFile) -> str:
    """Return why an image cannot be read, or nothing."""
    try:
        if decoder == "pil":
            with open_image(file) as opened:
                opened.convert("RGB")
        else:
            from lsqctl.training.image_folder import decode

            decode(file, decoder)
    except DataError as error:
        return str(error).removeprefix(f"{file} ")
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""
