"""Batches of a dataset as a network takes them: shuffled, augmented, normalized, on the device.

The order is a pure function of (seed, epoch): a resumed run begins at any batch of any epoch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lsqctl.recipe import Recipe
from lsqctl.training import counter
from lsqctl.training.images import Indices, DatasetSplits


class DataPipeline:
    """The training and evaluation batches of one run: (images (B, C, H, W) fp32, labels (B)).

    ``channels`` is what the network takes; grey images are repeated to three after normalization.
    A last batch of a single image is left out of training, for batch norm needs two.
    """

    def __init__(
        self, dataset: DatasetSplits, recipe: Recipe, device: torch.device, *, channels: int
    ) -> None:
        self.dataset = dataset
        self.channels = channels
        self.seed = recipe.seed
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

    def train_batches(self, epoch: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training batches of an epoch from batch ``start`` on."""
        permutation = counter.permutation(self.seed, epoch, len(self._train))
        batches = _split_batches(permutation, self.batch_size)[start : self.steps_per_epoch]
        for pixels, labels in self._train.train_batches(batches, seed=self.seed, epoch=epoch):
            yield self._normalize(pixels, labels)

    def eval_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the evaluation batches in dataset order."""
        indices = np.arange(len(self._eval))
        for pixels, labels in self._eval.eval_batches(_split_batches(indices, self.eval_batch_size)):
            yield self._normalize(pixels, labels)

    def calibration_batches(self, images: int) -> Iterator[Tensor]:
        """Yield ``images`` shuffled training images, as evaluation would see them.

        Not augmented: black borders and crops would shift the statistics of the first layers.
        """
        return self._sample_batches(images, self.eval_batch_size, counter.Stream.CALIBRATION)

    def reestimation_batches(self, images: int) -> Iterator[Tensor]:
        """Yield other shuffled training images, not augmented either, in batches as in training.

        A last batch that is not full is left out, for all weigh alike in what is estimated.
        """
        size = min(self.batch_size, images, len(self._train))
        n_images = min(images, len(self._train)) // size * size
        return self._sample_batches(n_images, size, counter.Stream.REESTIMATION)

    def _sample_batches(self, images: int, size: int, stream: counter.Stream) -> Iterator[Tensor]:
        permutation = counter.permutation(self.seed, 0, len(self._train), stream=stream)
        for pixels, labels in self._train.eval_batches(_split_batches(permutation[:images], size)):
            yield self._normalize(pixels, labels)[0]

    def _normalize(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = pixels.to(self.device).float().div_(255).sub_(self._mean).div_(self._std)
        if images.shape[1] == 1 < self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        return images, labels.to(self.device)


def _split_batches(indices: Indices, size: int) -> list[Indices]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]
