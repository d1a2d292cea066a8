"""A network and a dataset that train in a third of a second, for tests of how training is done.

Three convolutions and a classifier: a first, a last and inner layers, batch norms, an addition.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsqctl.datasets import DATASETS, dataset
from lsqctl.datasets.digits import read_digits
from lsqctl.datasets.in_memory import ArraySplits, InMemoryDataset
from lsqctl.models import MODELS, model
from lsqctl.models.cifar_resnet import BasicBlock


class SmallResNet(nn.Module):
    """The first stage of ``resnet8``, half as wide: 8 channels."""

    def __init__(self, num_classes: int, in_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(BasicBlock(8, 8, 1))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.linear = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, in_channels, H, W).

        With dropout half of the batches leave the block out, too.
        """
        out = F.relu(self.bn1(self.conv1(x)))
        if not (self.training and isinstance(self.dropout, nn.Dropout) and torch.rand(()) < 0.5):
            out = self.layer1(out)
        logits: Tensor = self.linear(self.dropout(out.mean((2, 3))))
        return logits


@model("small_resnet small_dropout_resnet")
def small_resnet(name: str, *, num_classes: int, in_channels: int, image_size: int) -> SmallResNet:
    """Return it for any size of images."""
    return SmallResNet(num_classes, in_channels, dropout=0.5 if "dropout" in name else 0.0)


class ViewingNet(nn.Module):
    """Two convolutions whose output is flattened by ``view``, as many a network is written."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 4, 3, padding=1)
        self.linear = nn.Linear(4 * image_size**2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, in_channels, H, W)."""
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        logits: Tensor = self.linear(x.view(x.shape[0], -1))
        return logits


@model("small_viewing_net")
def small_viewing_net(*, num_classes: int, in_channels: int, image_size: int) -> ViewingNet:
    """Return it for any size of images."""
    return ViewingNet(num_classes, in_channels, image_size)


@dataset(
    "few_digits",
    title="A quarter of the digits",
    classes=10,
    channels=1,
    image_size=8,
    mean=(0.3053,),
    std=(0.3761,),
    pad=1,
    flip=False,
)
class FewDigits(InMemoryDataset):
    """315 digits for training and 135 for evaluation."""

    def read(self, data_dir: Path) -> ArraySplits:
        """Return every fourth of the digits."""
        (images, labels), (test_images, test_labels), source = read_digits()
        train, test = (images[::4], labels[::4]), (test_images[::4], test_labels[::4])
        return train, test, source


EVAL_IMAGES = 135


@contextmanager
def declared() -> Iterator[None]:
    """Let the registries know both, as if lsqctl came with them."""
    models = patch.object(MODELS, "_declarations", _models())
    with models, patch.object(DATASETS, "_declarations", _datasets()):
        yield


@cache
def _models() -> dict[str, Any]:
    return {**MODELS._declarations, **MODELS._collect(_source(), None)}


@cache
def _datasets() -> dict[str, Any]:
    return {**DATASETS._declarations, **DATASETS._collect(_source(), None)}


def _source() -> list[tuple[str, str]]:
    return [(__name__, Path(__file__).read_text())]
