"""Try a recipe in seconds: build, quantize, train one step and evaluate, on two images each.

The recipe's own network, quantization, losses, optimizer and preprocessing; only the batch is
smaller, and the weights are random.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from lsqctl.errors import DataError, Diverged
from lsqctl.facts import Metric
from lsqctl.recipe import DATASETS, DataSection, Recipe
from lsqctl.training.cursor import Cursor
from lsqctl.training.datasets import normalization, open_dataset
from lsqctl.training.distill import freeze
from lsqctl.training.epoch import evaluate_epoch, train_epoch
from lsqctl.training.feed import Feed
from lsqctl.training.finetuning import assemble, build, quantize
from lsqctl.training.image_folder import FolderImages
from lsqctl.training.images import ImageSet, MemoryImages, TrainEval
from lsqctl.training.models import input_channels
from lsqctl.training.runtime import Job
from lsqctl.training.session import first_not_finite

_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_IMAGES = 2  # a batch; batch norm needs two

Splits = tuple[ImageSet, ImageSet]


@dataclass(frozen=True, slots=True)
class Tried:
    """How a trial went: its seconds, the loss of its step, and ``real`` or ``generated`` images."""

    seconds: float
    loss: float
    images: str


def smoke(recipe: Recipe, data_dir: Path) -> Tried:
    """Take one training step and one evaluation as the recipe says; return how it went.

    Image folders are tried on the files of ``data_dir/NAME``, ``imagefolder`` or
    ``imagenet-sample`` where there are any. Raises DataError where the network cannot take the
    images or be quantized so, Diverged where the loss is not finite, NotFound for an unknown name.
    """
    gc.collect()  # networks hold themselves in circles: ten of VGG's would fill the memory
    began = time.monotonic()
    small = _smaller(recipe)
    torch.manual_seed(recipe.seed)
    with TemporaryDirectory() as scratch:
        dataset, real = _dataset(small.data, data_dir, Path(scratch))
        loss = _step_and_evaluation(small, dataset, Path(scratch))
    return Tried(time.monotonic() - began, loss, "real" if real else "generated")


def _step_and_evaluation(recipe: Recipe, dataset: TrainEval, scratch: Path) -> float:
    """Return the loss of the only training step."""
    channels = input_channels(recipe.model.name, dataset.channels)
    feed = Feed(dataset, recipe, torch.device("cpu"), channels=channels)
    job = Job(scratch, scratch, threads=torch.get_num_threads())
    model = quantize(_settled(recipe.model.name, feed), recipe, feed, first_values=True)
    teacher = None
    if recipe.distill:
        teacher = freeze(_settled(recipe.network_of("distill.teacher"), feed))
    session = assemble(model, teacher, recipe, job, feed=feed, cursor=Cursor(recipe="smoke"))
    facts = [*train_epoch(session), *evaluate_epoch(session)]
    if (name := first_not_finite(model)) is not None:
        raise Diverged(f"{name} holds NaN or infinity after one step")
    return next(one.value for one in facts if isinstance(one, Metric) and one.name == "loss")


@torch.no_grad()
def _settled(name: str, feed: Feed) -> nn.Module:
    """Return the network with random weights, its batch norms with the images' statistics.

    Without them steps are calibrated on activations of another size than training meets: at 2
    bits every code is 0 then, and the gradients of a deep network overflow.
    """
    model = build(name, feed)
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    momentum = [one.momentum for one in norms]
    for one in norms:
        one.momentum = 1.0
    model.train()
    for images in feed.calibration(_IMAGES):
        model(images)
    for one, before in zip(norms, momentum, strict=True):
        one.momentum = before
    return model


def _smaller(recipe: Recipe) -> Recipe:
    data = {"batch_size": _IMAGES, "eval_batch_size": _IMAGES}
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"weights": None}),
            "data": recipe.data.model_copy(update=data),
            "quant": recipe.quant.model_copy(update={"calibration_images": _IMAGES}),
            "train": recipe.train.model_copy(update={"epochs": 1, "warmup_epochs": 0.0}),
        }
    )


def _dataset(data: DataSection, data_dir: Path, scratch: Path) -> tuple[TrainEval, bool]:
    """Return two images of each split, and whether they are real."""
    facts = DATASETS[data.name]
    mean, std = normalization(data)
    splits, real = (_folders if facts.folder else _in_memory)(data, data_dir, scratch)
    dataset = TrainEval(
        *splits,
        split="val",
        classes=facts.classes or 1000,
        channels=facts.channels,
        size=data.image_size,
        mean=mean,
        std=std,
        digest="",
        preprocessing="",
    )
    return dataset, real


def _folders(data: DataSection, data_dir: Path, scratch: Path) -> tuple[Splits, bool]:
    real = _files(data_dir, data.name)
    files = [(str(path), number) for number, path in enumerate(real or _generated(scratch))]
    return (FolderImages(files[:_IMAGES], data), FolderImages(files[-_IMAGES:], data)), bool(real)


def _in_memory(data: DataSection, data_dir: Path, scratch: Path) -> tuple[Splits, bool]:
    facts = DATASETS[data.name]
    try:
        whole = open_dataset(data, data_dir)
    except DataError:
        shape = (_IMAGES, facts.channels, facts.size, facts.size)
        pixels, labels = torch.randint(256, shape, dtype=torch.uint8), torch.arange(_IMAGES)
        return (MemoryImages(pixels, labels, data),) * 2, False
    first = np.arange(_IMAGES)
    train, evaluation = (
        MemoryImages(*next(iter(split.plain([first]))), data)
        for split in (whole.train, whole.evaluation)
    )
    return (train, evaluation), True


def _files(data_dir: Path, name: str) -> list[Path]:
    """Return real image files to try with, two to train on and two to evaluate; or none."""
    for place in (name, "imagefolder", "imagenet-sample"):
        for split in ("train", "val"):
            found = _first(_images_below(data_dir / place / split), 2 * _IMAGES)
            if len(found) == 2 * _IMAGES:
                return found
    return []


def _images_below(folder: Path) -> Iterator[Path]:
    """Yield the first image of each class folder."""
    for classes in sorted(folder.iterdir()) if folder.is_dir() else ():
        if classes.is_dir():
            inside = sorted(p for p in classes.iterdir() if p.suffix.lower() in _ENDINGS)
            yield from inside[:1]


def _first(paths: Iterator[Path], number: int) -> list[Path]:
    return [path for path, _ in zip(paths, range(number), strict=False)]


def _generated(folder: Path) -> list[Path]:
    """Write images of noise, wider than high, as a camera's."""
    from PIL import Image

    made = []
    for number in range(2 * _IMAGES):
        pixels = torch.randint(256, (300, 400, 3), dtype=torch.uint8).numpy()
        made.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(made[-1])
    return made
