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

Index = NDArray[np.int64]
Batch = tuple[Tensor, Tensor]  # pixels uint8 (B, C, H, W), labels int64 (B)


class ImageSet(Protocol):
    """Something that gives batches of its images by their places."""

    def __len__(self) -> int:
        """Return the number of images."""

    def training(self, batches: Iterable[Index], *, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield augmented batches: pure in (seed, epoch, place of each image)."""

    def plain(self, batches: Iterable[Index]) -> Iterator[Batch]:
        """Yield batches as evaluation sees them."""

    def to(self, device: torch.device) -> ImageSet:
        """Return the set with its images where that helps."""


@dataclass(frozen=True, slots=True)
class TrainEval:
    """The two splits of a dataset and what is known of them.

    ``split`` names the evaluation split; ``digest`` its and the training images' bytes;
    ``size`` is the side of what the network sees; ``mean`` and ``std`` are of pixels in 0..1.
    """

    train: ImageSet
    evaluation: ImageSet
    split: str
    classes: int
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    preprocessing: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryImages:
    """A set small enough for memory: pixels uint8 (N, C, H, W), labels int64 (N)."""

    pixels: Tensor
    labels: Tensor
    data: DataSection

    def __len__(self) -> int:
        return len(self.labels)

    def training(self, batches: Iterable[Index], *, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield batches, cropped and mirrored as the recipe says."""
        for index in batches:
            pixels, labels = self._take(index)
            yield (
                crop_and_flip(
                    *(pixels, index),
                    seed=seed,
                    epoch=epoch,
                    pad=self.data.pad,
                    flip=self.data.flip,
                ),
                labels,
            )

    def plain(self, batches: Iterable[Index]) -> Iterator[Batch]:
        """Yield batches as they are."""
        return (self._take(index) for index in batches)

    def to(self, device: torch.device) -> MemoryImages:
        """Return the set on the device."""
        return MemoryImages(self.pixels.to(device), self.labels.to(device), self.data)

    def digest(self) -> str:
        """Return the sha256 of pixels and labels."""
        found = hashlib.sha256(self.pixels.numpy().data)
        found.update(self.labels.numpy().data)
        return found.hexdigest()

    def _take(self, index: Index) -> Batch:
        places = torch.from_numpy(index).to(self.labels.device)
        return self.pixels[places], self.labels[places]
