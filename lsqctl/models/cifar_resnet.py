"""ResNets for 32x32 images with parameter-free shortcuts (He et al. 2016, section 4.2, option A).

``resnet8``, one block a stage, is the smallest of the family, for 8x8 to 32x32. Attributes bear the
names of the public CIFAR-10 weights: ``conv1``, ``layer1.0.bn2``, ``linear``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsqctl.models import model


class PaddedShortcut(nn.Module):
    """Every second pixel, and zeros for the channels that are new."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.before = new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) as (B, C + new, H/2, W/2)."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters."""

    residual_inputs = ("bn2", "shortcut")  # whose outputs are added

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        same_shape = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same_shape else PaddedShortcut(channels - channels_in)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, H/stride, W/stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels with ``blocks`` blocks each; depth 6 blocks + 2."""

    def __init__(self, blocks: int, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, num_classes)
        self.apply(_kaiming)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, in_channels, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.shape[-2:]).flatten(1)
        logits: Tensor = self.linear(out)
        return logits


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


@torch.no_grad()
def _kaiming(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)


@model("resnet8 cifar_resnet20 cifar_resnet32 cifar_resnet44 cifar_resnet56 cifar_resnet110")
def cifar_resnet(name: str, *, num_classes: int, in_channels: int, image_size: int) -> CifarResNet:
    """Return the ResNet whose name ends in its depth."""
    depth = int(name.rpartition("resnet")[2])
    return CifarResNet((depth - 2) // 6, num_classes=num_classes, in_channels=in_channels)
