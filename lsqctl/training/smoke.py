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

from lsqctl.datasets import DATASETS
from lsqctl.datasets.image_files import ImageFile, check_decoder, is_image_name
from lsqctl.datasets.image_folders import FolderDataset, images_root
from lsqctl.errors import DataError, Diverged
from lsqctl.events import Metric
from lsqctl.models import input_channels
from lsqctl.recipe import DataSection, Recipe
from lsqctl.training.beginning import build_on_device, initial_step_sizes, quantize_model
from lsqctl.training.data_pipeline import DataPipeline, DatasetSplits, ImageSet, InMemoryImages
from lsqctl.training.dataset_loader import normalization, open_dataset
from lsqctl.training.evaluation import decide_evaluation
from lsqctl.training.finetuning import evaluate_epoch, train_epoch
from lsqctl.training.image_folder import FolderImages
from lsqctl.training.optimizer_step import freeze_teacher
from lsqctl.training.precision import decide_precision, in_precision
from lsqctl.training.runtime import ExecutionContext
from lsqctl.training.session import build_session, first_non_finite
from lsqctl.training.train_state import TrainState

_BATCH_SIZE = 2  # a batch; batch norm needs two

Splits = tuple[ImageSet, ImageSet]


@dataclass(frozen=True, slots=True)
class SmokeResult:
    """How a smoke test went: seconds, the loss of its step, ``real`` or ``generated`` images."""

    seconds: float
    loss: float
    image_source: str


def smoke(recipe: Recipe, data_dir: Path) -> SmokeResult:
    """Take one training step and one evaluation as the recipe says; return how it went.

    Image folders are tried on the files of ``data_dir/NAME``, ``imagefolder`` or
    ``imagenet-sample`` where there are any. Raises DataError where the network cannot take the
    images, UsageError where it cannot be quantized so, Diverged where the loss is not finite,
    NotFound for an unknown name.
    """
    gc.collect()  # networks hold themselves in circles: ten of VGG's would fill the memory
    started = time.monotonic()
    small_recipe = _shrink_recipe(recipe)
    torch.manual_seed(recipe.seed)
    with TemporaryDirectory() as scratch:
        dataset, real = _small_dataset(small_recipe.data, data_dir, Path(scratch))
        loss = _train_and_evaluate(small_recipe, dataset, Path(scratch))
    return SmokeResult(time.monotonic() - started, loss, "real" if real else "generated")


def _train_and_evaluate(recipe: Recipe, dataset: DatasetSplits, scratch: Path) -> float:
    """Return the loss of the only training step."""
    channels = input_channels(recipe.model.name, dataset.channels)
    pipeline = DataPipeline(dataset, recipe, torch.device("cpu"), channels=channels)
    context = ExecutionContext(scratch, scratch, threads=torch.get_num_threads())
    recipe = in_precision(recipe, decide_precision(recipe, pipeline.device))
    model = quantize_model(
        _warm_up_batchnorm(recipe.model.name, pipeline), recipe, pipeline.input_shape
    )
    initial_step_sizes(model, recipe, pipeline, {})
    teacher = None
    if recipe.distill:
        teacher = freeze_teacher(_warm_up_batchnorm(recipe.network_of("distill.teacher"), pipeline))
    session = build_session(
        model,
        teacher,
        recipe,
        context,
        pipeline=pipeline,
        train_state=TrainState(
            recipe_hash="smoke",
            environment={
                "evaluation": decide_evaluation(
                    recipe.train.evaluation, model, pipeline.device, pipeline.input_shape
                )
            },
        ),
    )
    events = [*train_epoch(session), *evaluate_epoch(session)]
    if (name := first_non_finite(model)) is not None:
        raise Diverged(f"{name} holds NaN or infinity after one step")
    return next(
        event.value for event in events if isinstance(event, Metric) and event.name == "loss"
    )


@torch.no_grad()
def _warm_up_batchnorm(name: str, pipeline: DataPipeline) -> nn.Module:
    """Return the network with random weights, its batch norms with the images' statistics.

    Without them steps are calibrated on activations of another size than training meets: at 2
    bits every code is 0 then, and the gradients of a deep network overflow.
    """
    model = build_on_device(name, pipeline)
    layers = [
        layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    model.train()
    for images in pipeline.calibration_batches(_BATCH_SIZE):
        model(images)
    for layer, original in zip(layers, momenta, strict=True):
        layer.momentum = original
    return model


def _shrink_recipe(recipe: Recipe) -> Recipe:
    data = {
        **dict.fromkeys(("batch_size", "eval_batch_size"), _BATCH_SIZE),
        **dict.fromkeys(("limit_train", "limit_eval"), None),
    }
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"weights": None}),
            "data": recipe.data.model_copy(update=data),
            "quant": recipe.quant.model_copy(update={"calibration_images": _BATCH_SIZE}),
            "distill": recipe.distill and recipe.distill.model_copy(update={"cache": False}),
            "train": recipe.train.model_copy(update={"epochs": 1, "warmup_epochs": 0.0}),
        }
    )


def _small_dataset(data: DataSection, data_dir: Path, scratch: Path) -> tuple[DatasetSplits, bool]:
    """Return two images of each split, and whether they are real."""
    info = DATASETS[data.name]
    mean, std = normalization(data)
    splits, real = (_folder_splits if info.is_image_folder else _memory_splits)(
        data, data_dir, scratch
    )
    dataset = DatasetSplits(
        *splits,
        eval_split="val",
        num_classes=info.classes or 1000,
        channels=info.channels,
        image_size=data.image_size,
        mean=mean,
        std=std,
        digest="",
        preprocessing="",
    )
    return dataset, real


def _folder_splits(data: DataSection, data_dir: Path, scratch: Path) -> tuple[Splits, bool]:
    check_decoder(data.decoder)
    real_files = _real_images(data_dir, data.path or data.name)
    files = [(path, label) for label, path in enumerate(real_files or _noise_images(scratch))]
    return (
        FolderImages(files[:_BATCH_SIZE], data),
        FolderImages(files[-_BATCH_SIZE:], data),
    ), bool(real_files)


def _memory_splits(data: DataSection, data_dir: Path, scratch: Path) -> tuple[Splits, bool]:
    info = DATASETS[data.name]
    try:
        dataset = open_dataset(data, data_dir)
    except DataError:
        shape = (_BATCH_SIZE, info.channels, info.image_size, info.image_size)
        pixels, labels = torch.randint(256, shape, dtype=torch.uint8), torch.arange(_BATCH_SIZE)
        return (InMemoryImages(pixels, labels, data),) * 2, False
    indices = np.arange(_BATCH_SIZE)
    train, evaluation = (
        InMemoryImages(*next(iter(split.eval_batches([indices]))), data)
        for split in (dataset.train, dataset.evaluation)
    )
    return (train, evaluation), True


def _real_images(data_dir: Path, name: str) -> list[ImageFile]:
    """Return real images to try with, two to train on and two to evaluate; or none."""
    if images_root(data_dir, name).is_file():
        splits = FolderDataset("imagefolder", name).list_splits(data_dir)
        images = [image for split in splits for image, _ in split.files]
        return [*images[: 2 * _BATCH_SIZE]] if len(images) >= 2 * _BATCH_SIZE else []
    for folder_name in (name, "imagefolder", "imagenet-sample"):
        for split in ("train", "val"):
            paths = _take(
                _one_image_per_class(images_root(data_dir, folder_name) / split), 2 * _BATCH_SIZE
            )
            if len(paths) == 2 * _BATCH_SIZE:
                return paths
    return []


def _one_image_per_class(folder: Path) -> Iterator[str]:
    """Yield the first image of each class folder."""
    for class_folder in sorted(folder.iterdir()) if folder.is_dir() else ():
        if class_folder.is_dir():
            images = sorted(
                path
                for path in class_folder.iterdir()
                if is_image_name(path.name) and path.is_file()
            )
            yield from map(str, images[:1])


def _take(paths: Iterator[str], count: int) -> list[ImageFile]:
    return [path for path, _ in zip(paths, range(count), strict=False)]


def _noise_images(folder: Path) -> list[ImageFile]:
    """Write images of noise, wider than high, as a camera's."""
    from PIL import Image

    paths: list[ImageFile] = []
    for index in range(2 * _BATCH_SIZE):
        pixels = torch.randint(256, (300, 400, 3), dtype=torch.uint8).numpy()
        path = str(folder / f"{index}.png")
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return paths
