"""Open the dataset that a recipe names: two splits, checked, with their digest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from pathlib import Path

import numpy as np
import torch

from lsqctl.datasets import DATASETS
from lsqctl.datasets.array_checks import read_plugin_dataset
from lsqctl.datasets.data_digest import folder_digest, images_sha256
from lsqctl.datasets.identity import load_dataset
from lsqctl.datasets.image_folders import FolderDataset
from lsqctl.datasets.image_pack import PackedImage
from lsqctl.datasets.in_memory import Arrays, ArraySplits, InMemoryDataset
from lsqctl.datasets.presence import check_dataset_present, missing_dataset_error
from lsqctl.discovery import plugin_faults
from lsqctl.recipe import DataSection
from lsqctl.training import counter_rng
from lsqctl.training.counter_rng import Stream
from lsqctl.training.data_pipeline import DatasetSplits, Indices, InMemoryImages


def open_dataset(
    data: DataSection,
    data_dir: Path,
    *,
    num_workers: int = 0,
    check_stop: Callable[[], None] = lambda: None,
) -> DatasetSplits:
    """Return the dataset; raises DataError when it is missing, partial or damaged.

    ``num_workers`` processes decode image files; sets in memory need none. ``check_stop`` may
    raise, while the images of a folder are hashed.
    """
    check_dataset_present(data.name, data_dir, data.path)
    plugin = DATASETS.plugin_of(data.name)
    with plugin_faults(plugin):
        dataset = load_dataset(data.name, data.path)
        if isinstance(dataset, FolderDataset):
            return _open_folder(dataset, data, data_dir, num_workers, check_stop)
        splits = (read_plugin_dataset if plugin else _read)(dataset, data_dir)
        return _open_in_memory(dataset, splits, data)


def _read(dataset: InMemoryDataset, data_dir: Path) -> ArraySplits:
    splits = dataset.read(data_dir)
    if splits is None:
        raise missing_dataset_error(dataset.name, data_dir)
    return splits


def _open_in_memory(
    dataset: InMemoryDataset, splits: ArraySplits, data: DataSection
) -> DatasetSplits:
    info, size = dataset.info, dataset.info.image_size
    whole = [_in_memory(arrays, data) for arrays in splits[:2]]
    train, test = (
        images if kept is None else images.subset(kept)
        for images, kept in zip(whole, _kept_images(whole, data), strict=True)
    )
    mean, std = normalization(data)
    return DatasetSplits(
        train,
        test,
        eval_split="test",
        num_classes=info.classes or 0,
        channels=info.channels,
        image_size=size,
        mean=mean,
        std=std,
        digest=f"sha256:{train.digest()[:32]}{test.digest()[:32]}",
        preprocessing=f"as it is, {size}x{size}; {_normalization_text(mean, std)}; "
        f"training: pad {data.pad} and crop, {_mirror_text(data)}",
        notes=(f"{data.name}: {splits[2]}", *_partial_note((train, test), whole)),
        labels=info.label_names,
    )


def _in_memory(arrays: Arrays, data: DataSection) -> InMemoryImages:
    pixels, labels = arrays
    return InMemoryImages(torch.from_numpy(pixels.copy()), torch.from_numpy(labels.copy()), data)


def _open_folder(
    dataset: FolderDataset,
    data: DataSection,
    data_dir: Path,
    num_workers: int,
    check_stop: Callable[[], None],
) -> DatasetSplits:
    from lsqctl.training.image_folder import FolderImages

    dataset.check_use(data_dir, resize=data.resize, decoder=data.decoder)
    train_split, eval_split = dataset.list_splits(data_dir)
    whole = [train_split.files, eval_split.files]
    packed = all(isinstance(file, PackedImage) for files in whole for file, _ in files)
    taken = (
        files if kept is None else [files[index] for index in kept]
        for files, kept in zip(whole, _kept_images(whole, data), strict=True)
    )
    train, evaluation = (FolderImages(files, data, num_workers=num_workers) for files in taken)
    mean, std = normalization(data)
    images = images_sha256(evaluation.files, data_dir, check_stop)
    return DatasetSplits(
        train,
        evaluation,
        eval_split="val",
        num_classes=len(train_split.classes),
        channels=3,
        image_size=data.crop,
        mean=mean,
        std=std,
        digest=folder_digest(train.digest(), evaluation.digest(), images),
        preprocessing=_folder_preprocessing(data),
        notes=(
            f"{data.label}: {len(train)} and {len(evaluation)} "
            + ("packed images, each checked" if packed else "files; what is evaluated is hashed"),
            *_partial_note((train, evaluation), whole),
            *train_split.notes,
            *eval_split.notes,
        ),
        labels=tuple(train_split.classes),
    )


def _folder_preprocessing(data: DataSection) -> str:
    return (
        f"resize {data.resize_mode} {data.resize} {data.interpolation} antialias, "
        f"centre crop {data.crop}; {_normalization_text(*normalization(data))}; "
        f"training: {data.train_crop} crop, mirror {'yes' if data.flip else 'no'}"
        + ("; decoded by torchcodec" if data.decoder == "torchcodec" else "")
    )


def _kept_images(splits: Iterable[Sized], data: DataSection) -> list[Indices | None]:
    """Return which images of the training and the evaluation split are taken; None is all.

    They are drawn once, whatever the seed, and stay in the order of the dataset.
    """
    return [
        None
        if limit is None or limit >= len(split)
        else np.sort(counter_rng.permutation(0, 0, len(split), stream=Stream.LIMIT)[:limit])
        for split, limit in zip(splits, (data.limit_train, data.limit_eval), strict=True)
    ]


def _partial_note(taken: Iterable[Sized], whole: Iterable[Sized]) -> tuple[str, ...]:
    counts = [(len(part), len(split)) for part, split in zip(taken, whole, strict=True)]
    if all(part == split for part, split in counts):
        return ()
    (train, all_train), (evaluation, all_evaluation) = counts
    return (
        f"partial: {train} of {all_train} training images, {evaluation} of {all_evaluation} "
        "evaluated",
    )


def normalization(data: DataSection) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation, per channel of pixels in 0..1."""
    info = DATASETS["imagenet" if data.normalize == "imagenet" else data.name]
    if data.normalize == "none":
        return (0.0,) * info.channels, (1.0,) * info.channels
    return info.mean, info.std


def _mirror_text(data: DataSection) -> str:
    alternating = ", alternating" if data.flip_order == "alternating" else ""
    views = f", {data.views} views" if data.views else ""
    return f"mirror {'yes' if data.flip else 'no'}{alternating}{views}"


def _normalization_text(mean: Iterable[float], std: Iterable[float]) -> str:
    return f"/255, mean {' '.join(map(str, mean))}, std {' '.join(map(str, std))}"
