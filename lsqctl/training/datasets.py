"""Open the dataset that a recipe names: two splits, checked, with their digest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from lsqctl.errors import DataError
from lsqctl.recipe import DATASETS, IMAGENET_MEAN, IMAGENET_STD, DataSection
from lsqctl.training.cifar import LAYOUTS, read_cifar
from lsqctl.training.digits import Arrays, read_digits
from lsqctl.training.idx_files import read_idx_set
from lsqctl.training.images import MemoryImages, TrainEval
from lsqctl.training.locate import check_classes, check_present, missing


def open_dataset(data: DataSection, data_dir: Path, *, workers: int = 0) -> TrainEval:
    """Return the dataset; raises DataError when it is missing, partial or damaged.

    ``workers`` processes decode image files; sets in memory need none.
    """
    check_present(data.name, data_dir)
    if DATASETS[data.name].folder:
        return _open_folder(data, data_dir, workers)
    found = _read(data.name, data_dir)
    if found is None:
        raise missing(data.name, data_dir)
    train, test = (_in_memory(arrays, data) for arrays in found[:2])
    facts = DATASETS[data.name]
    mean, std = normalization(data)
    return TrainEval(
        train,
        test,
        split="test",
        classes=facts.classes or 0,
        channels=facts.channels,
        size=facts.size,
        mean=mean,
        std=std,
        digest=f"sha256:{train.digest()[:32]}{test.digest()[:32]}",
        preprocessing=f"as it is, {facts.size}x{facts.size}; {_normalized(mean, std)}; "
        f"training: pad {data.pad} and crop, mirror {'yes' if data.flip else 'no'}",
        notes=(f"{data.name}: {found[2]}",),
    )


def _read(name: str, data_dir: Path) -> tuple[Arrays, Arrays, str] | None:
    if name == "digits":
        return read_digits()
    return read_cifar(name, data_dir) if name in LAYOUTS else read_idx_set(name, data_dir)


def _in_memory(arrays: Arrays, data: DataSection) -> MemoryImages:
    pixels, labels = arrays
    return MemoryImages(torch.from_numpy(pixels.copy()), torch.from_numpy(labels.copy()), data)


def _open_folder(data: DataSection, data_dir: Path, workers: int) -> TrainEval:
    from lsqctl.training.image_folder import FolderImages

    root = data_dir / data.name
    (train_files, names), (eval_files, eval_names) = (
        _files(root / split, data.name) for split in ("train", "val")
    )
    expected = DATASETS[data.name].classes
    if names != eval_names or (expected and len(names) != expected):
        raise DataError(
            f"{root}: {len(names)} classes in train, {len(eval_names)} in val"
            + (f", there should be {expected}" if expected else ", they should be the same")
        )
    train = FolderImages(train_files, data, workers=workers)
    evaluation = FolderImages(eval_files, data, workers=workers)
    mean, std = normalization(data)
    return TrainEval(
        train,
        evaluation,
        split="val",
        classes=len(names),
        channels=3,
        size=data.crop,
        mean=mean,
        std=std,
        digest=f"listing-sha256:{train.digest()[:32]}{evaluation.digest()[:32]}",
        preprocessing=f"resize {data.resize_mode} {data.resize} {data.interpolation} antialias, "
        f"centre crop {data.crop}; {_normalized(mean, std)}; training: {data.train_crop} crop, "
        f"mirror {'yes' if data.flip else 'no'}",
        notes=(f"{data.name}: {len(train)} and {len(evaluation)} files, bytes not verified",),
    )


def _files(folder: Path, name: str) -> tuple[list[tuple[str, int]], list[str]]:
    if not folder.is_dir():
        raise DataError(
            f"{folder} is missing: {name} needs train and val, one folder a class in each"
        )
    from torchvision.datasets import ImageFolder

    check_classes(folder)
    try:
        found = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: {str(error).splitlines()[0]}") from None
    return found.samples, found.classes


def normalization(data: DataSection) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the deviation, per channel of pixels in 0..1."""
    facts = DATASETS[data.name]
    if data.normalize == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    if data.normalize == "none":
        return (0.0,) * facts.channels, (1.0,) * facts.channels
    return facts.mean, facts.std


def _normalized(mean: Iterable[float], std: Iterable[float]) -> str:
    return f"/255, mean {' '.join(map(str, mean))}, std {' '.join(map(str, std))}"
