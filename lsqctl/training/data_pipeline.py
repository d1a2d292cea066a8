"""Batches of a dataset as a network takes them: shuffled, augmented, normalized, on the device.

The order is a pure function of (seed, epoch): a resumed run begins at any batch of any epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lsqctl.recipe import DataSection, Recipe
from lsqctl.training import counter_rng
from lsqctl.training.counter_rng import Stream, bits, randint


def mirrored(
    indices: NDArray[np.int64], *, seed: int, epoch: int, alternating: bool
) -> NDArray[np.bool_]:
    """Return which images are mirrored: half of them, at random.

    ``alternating`` draws once, and mirrors in each epoch what it did not in the one before: the
    parity of hash(seed, index) + epoch (Jordan 2024, arXiv 2404.00498, section 3.5).
    """
    drawn = randint(2, bits(seed, 0 if alternating else epoch, Stream.FLIP, indices))
    odd: NDArray[np.bool_] = (drawn + epoch if alternating else drawn) % 2 == 1
    return odd


def crop_and_flip(
    pixels: Tensor,
    indices: NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    pad: int,
    flip: bool,
    alternating: bool = False,
) -> Tensor:
    """Return the batch ``(B, C, H, W)`` cropped at random offsets and mirrored, same shape.

    ``indices`` are those of the images in their dataset. Each image is padded by ``pad`` black
    pixels on every side first; with ``flip``, half of the images are mirrored.
    """
    if not pad and not flip:
        return pixels
    height, width = pixels.shape[-2:]
    top = _offsets(Stream.CROP_Y, indices, (seed, epoch), 2 * pad + 1)
    left = _offsets(Stream.CROP_X, indices, (seed, epoch), 2 * pad + 1)
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    if flip:
        which = mirrored(indices, seed=seed, epoch=epoch, alternating=alternating)
        columns = np.where(which[:, None], columns[:, ::-1], columns)
    return _gather(F.pad(pixels, (pad, pad, pad, pad)), rows, columns)


def _offsets(
    stream: Stream, indices: NDArray[np.int64], key: tuple[int, int], n_offsets: int
) -> NDArray[np.int64]:
    return randint(n_offsets, bits(*key, stream, indices))


def _gather(padded: Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Tensor:
    """Return ``out[b, c, i, j] = padded[b, c, rows[b, i], columns[b, j]]``."""
    batch = torch.arange(len(rows), device=padded.device)[:, None, None]
    r = torch.from_numpy(rows).to(padded.device)[:, :, None]
    c = torch.from_numpy(np.ascontiguousarray(columns)).to(padded.device)[:, None, :]
    return padded.permute(0, 2, 3, 1)[batch, r, c].permute(0, 3, 1, 2).contiguous()


Indices = NDArray[np.int64]
Batch = tuple[Tensor, Tensor]  # pixels uint8 (B, C, H, W), labels int64 (B)


class ImageSet(Protocol):
    """Something that gives batches of its images by their indices."""

    def __len__(self) -> int:
        """Return the number of images."""

    def train_batches(
        self, batches: Iterable[Indices], *, seed: int, epoch: int
    ) -> Iterator[Batch]:
        """Yield augmented batches: pure in (seed, epoch, index of each image)."""

    def eval_batches(self, batches: Iterable[Indices]) -> Iterator[Batch]:
        """Yield batches as evaluation sees them."""

    def to(self, device: torch.device) -> ImageSet:
        """Return the set with its images where that helps."""


@dataclass(frozen=True, slots=True)
class DatasetSplits:
    """The two splits of a dataset, their classes, channels, size and digest.

    ``eval_split`` names the evaluation split; ``digest`` its and the training images' bytes;
    ``image_size`` is the side of what the network sees; ``mean`` and ``std`` are of pixels in 0..1.
    ``labels`` name the classes in their order, where they have names.
    """

    train: ImageSet
    evaluation: ImageSet
    eval_split: str
    num_classes: int
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    preprocessing: str
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InMemoryImages:
    """A set small enough for memory: pixels uint8 (N, C, H, W), labels int64 (N)."""

    pixels: Tensor
    labels: Tensor
    data: DataSection

    def __len__(self) -> int:
        return len(self.labels)

    def train_batches(
        self, batches: Iterable[Indices], *, seed: int, epoch: int
    ) -> Iterator[Batch]:
        """Yield batches, cropped and mirrored as the recipe says."""
        for indices in batches:
            pixels, labels = self._select(indices)
            yield (
                crop_and_flip(
                    pixels,
                    indices,
                    seed=seed,
                    epoch=epoch,
                    pad=self.data.pad,
                    flip=self.data.flip,
                    alternating=self.data.flip_order == "alternating",
                ),
                labels,
            )

    def eval_batches(self, batches: Iterable[Indices]) -> Iterator[Batch]:
        """Yield batches as they are."""
        return (self._select(indices) for indices in batches)

    def to(self, device: torch.device) -> InMemoryImages:
        """Return the set on the device."""
        return InMemoryImages(self.pixels.to(device), self.labels.to(device), self.data)

    def subset(self, indices: Indices) -> InMemoryImages:
        """Return the set of these images alone."""
        return InMemoryImages(*self._select(indices), self.data)

    def digest(self) -> str:
        """Return the sha256 of pixels and labels."""
        hasher = hashlib.sha256(self.pixels.numpy().data)
        hasher.update(self.labels.numpy().data)
        return hasher.hexdigest()

    def _select(self, indices: Indices) -> Batch:
        selection = torch.from_numpy(indices).to(self.labels.device)
        return self.pixels[selection], self.labels[selection]


_SEED_OF_VIEWS = 0  # not the run's: what is computed of a view serves the runs of all seeds


class DataPipeline:
    """The training and evaluation batches of one run: (images (B, C, H, W) fp32, labels (B)).

    ``channels`` is what the network takes; grey images are repeated to three after normalization.
    A last batch of a single image is left out of training, for batch norm needs two. Where
    ``lays_channel_first`` is set, torch does not take a channel that is alone for the last one.
    """

    lays_channel_first = False

    def __init__(
        self, dataset: DatasetSplits, recipe: Recipe, device: torch.device, *, channels: int
    ) -> None:
        self.dataset = dataset
        self.channels = channels
        self.seed = recipe.seed
        self.views = recipe.data.views
        self.batch_size = recipe.data.batch_size
        self.eval_batch_size = recipe.data.eval_batch_size
        self.device = device
        self._train = dataset.train.to(device)
        self._eval = dataset.evaluation.to(device)
        self._mean = torch.tensor(dataset.mean, device=device)[:, None, None]
        self._std = torch.tensor(dataset.std, device=device)[:, None, None]
        full, remainder = divmod(len(dataset.train), self.batch_size)
        self.steps_per_epoch = max(1, full + (remainder > 1))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """What the network takes: (C, H, W)."""
        return self.channels, self.dataset.image_size, self.dataset.image_size

    @property
    def model_args(self) -> dict[str, int]:
        """The arguments of ``build_model`` that the data decide."""
        return {
            "num_classes": self.dataset.num_classes,
            "in_channels": self.channels,
            "image_size": self.dataset.image_size,
        }

    def view_of(self, epoch: int) -> int:
        """Return which view of its images an epoch sees; without ``data.views``, its own."""
        return epoch % self.views if self.views else epoch

    def batch_indices(self, epoch: int, *, start: int = 0) -> list[Indices]:
        """Return which images make the batches of an epoch, from batch ``start`` on."""
        permutation = counter_rng.permutation(self.seed, epoch, len(self._train))
        return _split_batches(permutation, self.batch_size)[start : self.steps_per_epoch]

    def train_batches(
        self, epoch: int, *, start: int = 0, part: Callable[[Indices], Indices] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training batches of an epoch from batch ``start`` on, or a part of each."""
        indices = self.batch_indices(epoch, start=start)
        return self._augmented(map(part, indices) if part else indices, self.view_of(epoch))

    def view_batches(self, view: int, batches: Iterable[Indices]) -> Iterator[Tensor]:
        """Yield some training images as the epochs of a view see them."""
        return (images for images, _ in self._augmented(batches, view))

    def _augmented(self, batches: Iterable[Indices], view: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches as a view shows them: the same to every seed, where views are counted."""
        seed = _SEED_OF_VIEWS if self.views else self.seed
        for pixels, labels in self._train.train_batches(batches, seed=seed, epoch=view):
            yield self._normalize(pixels, labels)

    def eval_indices(self) -> list[Indices]:
        """Return which images make the evaluation batches, in dataset order."""
        return _split_batches(np.arange(len(self._eval)), self.eval_batch_size)

    def eval_batches(self, batches: Sequence[Indices] | None = None) -> Iterator[Batch]:
        """Yield the evaluation batches in dataset order, or some of ``eval_indices``."""
        chosen = self.eval_indices() if batches is None else batches
        for pixels, labels in self._eval.eval_batches(chosen):
            yield self._normalize(pixels, labels)

    def eval_pixels(self) -> Iterator[Batch]:
        """Yield the same batches as bytes (B, C, H, W), before they are normalized."""
        return self._eval.eval_batches(self.eval_indices())

    def calibration_batches(self, images: int) -> Iterator[Tensor]:
        """Yield ``images`` shuffled training images, as evaluation would see them.

        Not augmented: black borders and crops would shift the statistics of the first layers.
        """
        return self._sample_batches(images, self.eval_batch_size, counter_rng.Stream.CALIBRATION)

    def reestimation_batches(self, images: int) -> Iterator[Tensor]:
        """Yield other shuffled training images, not augmented either, in batches as in training.

        A last batch that is not full is left out, for all weigh alike in what is estimated.
        """
        size = min(self.batch_size, images, len(self._train))
        n_images = min(images, len(self._train)) // size * size
        return self._sample_batches(n_images, size, counter_rng.Stream.REESTIMATION)

    def _sample_batches(
        self, images: int, size: int, stream: counter_rng.Stream
    ) -> Iterator[Tensor]:
        permutation = counter_rng.permutation(self.seed, 0, len(self._train), stream=stream)
        for pixels, labels in self._train.eval_batches(_split_batches(permutation[:images], size)):
            yield self._normalize(pixels, labels)[0]

    def _normalize(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = pixels.to(self.device).float().div_(255).sub_(self._mean).div_(self._std)
        if images.shape[1] == 1 < self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        if self.lays_channel_first:
            images = images.view(images.shape)
        return images, labels.to(self.device)


def _split_batches(indices: Indices, size: int) -> list[Indices]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]
