"""Images and their labels, as a training run takes them: whole sets in memory.

Folders of image files are in ``image_folder``; both have ``training`` and ``plain``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsqctl.recipe import DataSection
from lsqctl.training.augment import crop_and_flip

Indices = NDArray[np.int64]
Batch = tuple[Tensor, Tensor]  # pixels uint8 (B, C, H, W), labels int64 (B)


class ImageSet(Protocol):
    """Something that gives batches of its images by their indices."""

    def __len__(self) -> int:
        """Return the number of images."""

    def train_batches(self, batches: Iterable[Indices], *, seed: int, epoch: int) -> Iterator[Batch]:
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


@dataclass(frozen=True, slots=True)
class InMemoryImages:
    """A set small enough for memory: pixels uint8 (N, C, H, W), labels int64 (N)."""

    pixels: Tensor
    labels: Tensor
    data: DataSection

    def __len__(self) -> int:
        return len(self.labels)

    def train_batches(self, batches: Iterable[Indices], *, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield batches, cropped and mirrored as the recipe says."""
        for indices in batches:
            pixels, labels = self._select(indices)
            yield (
                crop_and_flip(
                    *(pixels, indices),
                    seed=seed,
                    epoch=epoch,
                    pad=self.data.pad,
                    flip=self.data.flip,
                ),
                labels,
            )

    def eval_batches(self, batches: Iterable[Indices]) -> Iterator[Batch]:
        """Yield batches as they are."""
        return (self._select(indices) for indices in batches)

    def to(self, device: torch.device) -> InMemoryImages:
        """Return the set on the device."""
        return InMemoryImages(self.pixels.to(device), self.labels.to(device), self.data)

    def digest(self) -> str:
        """Return the sha256 of pixels and labels."""
        hasher = hashlib.sha256(self.pixels.numpy().data)
        hasher.update(self.labels.numpy().data)
        return hasher.hexdigest()

    def _select(self, indices: Indices) -> Batch:
        selection = torch.from_numpy(indices).to(self.labels.device)
        return self.pixels[selection], self.labels[selection]
