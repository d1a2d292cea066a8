"""SqueezeNext-23 for 224x224 images (Gholami et al. 2018): small separable blocks.

Hardware-Aware Neural Network Design, arXiv 1803.10615. The LSQ paper has its double width,
2,583,752 parameters with 1,000 classes. Details that the paper leaves open (padding of the first
convolution, pooling) follow its public PyTorch port.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsqctl.models import model

# (channels at single width, blocks) of each stage
_STAGES = ((32, 6), (64, 6), (128, 8), (256, 1))
_STEM, _HEAD = 64, 128


class ConvNormRelu(nn.Sequential):
    """A convolution with bias, its norm and a ReLU."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: tuple[int, int] = (1, 1),
        *,
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
    ) -> None:
        conv = nn.Conv2d(channels_in, channels, kernel, stride, padding)
        super().__init__(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class SqueezeNextBlock(nn.Module):
    """Two squeezing 1x1, a 1x3 and a 3x1, and an expanding 1x1 convolution, beside a shortcut."""

    residual_inputs = ("expand", "shortcut")  # whose outputs are added

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        shape_changes = stride > 1 or channels_in > channels
        squeeze = 1 if stride > 1 else 4 if channels_in > channels else 2
        wide, narrow = channels_in // squeeze, channels_in // (2 * squeeze)
        self.squeeze1 = ConvNormRelu(channels_in, wide, stride=stride)
        self.squeeze2 = ConvNormRelu(wide, narrow)
        self.across = ConvNormRelu(narrow, wide, (1, 3), padding=(0, 1))
        self.down = ConvNormRelu(wide, wide, (3, 1), padding=(1, 0))
        self.expand = ConvNormRelu(wide, channels)
        self.shortcut = (
            ConvNormRelu(channels_in, channels, stride=stride) if shape_changes else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, H/stride, W/stride)."""
        out = self.expand(self.down(self.across(self.squeeze2(self.squeeze1(x)))))
        return F.relu(out + self.shortcut(x))


class SqueezeNext(nn.Module):
    """SqueezeNext-23 at ``width`` times its channels."""

    def __init__(self, width: int, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        channels = _STEM * width
        self.stem = ConvNormRelu(in_channels, channels, (7, 7), stride=2, padding=(1, 1))
        blocks: list[nn.Module] = []
        for stage, (base, count) in enumerate(_STAGES):
            for block in range(count):
                stride = 2 if stage and not block else 1
                blocks.append(SqueezeNextBlock(channels, base * width, stride))
                channels = base * width
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNormRelu(channels, _HEAD * width)
        self.classifier = nn.Linear(_HEAD * width, num_classes)
        self.apply(_kaiming)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, in_channels, H, W)."""
        out = F.max_pool2d(self.stem(x), 3, stride=2, ceil_mode=True)
        logits: Tensor = self.classifier(self.head(self.blocks(out)).mean((2, 3)))
        return logits


@torch.no_grad()
def _kaiming(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


@model("squeezenext23_2x")
def squeezenext23_2x(*, num_classes: int, in_channels: int, image_size: int) -> SqueezeNext:
    """Return the network of the LSQ paper: twice the channels."""
    return SqueezeNext(2, num_classes=num_classes, in_channels=in_channels)
