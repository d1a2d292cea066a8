"""A small MLP-Mixer for 32x32 images (Tolstikhin et al. 2021): linear layers, and nothing else.

MLP-Mixer: An all-MLP Architecture for Vision, arXiv 2105.01601. Patches of 4x4 pixels become
tokens; a block mixes first the tokens of each channel, then the channels of each token. It is
smaller than the paper's: 128 channels, 8 blocks, 605,834 parameters with 10 classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lsqctl.models import model

_PATCH, _CHANNELS, _BLOCKS = 4, 128, 8
_TOKEN_HIDDEN, _CHANNEL_HIDDEN = 64, 256


class Mlp(nn.Module):
    """Two linear layers with a GELU between, over the last dimension."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        """Return (*, features)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class MixerBlock(nn.Module):
    """Mixes the tokens, then the channels, each after its norm and beside a shortcut."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.mix_tokens = Mlp(tokens, _TOKEN_HIDDEN)
        self.mix_channels = Mlp(channels, _CHANNEL_HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, tokens, channels)."""
        x = x + self.mix_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = x + self.mix_channels(self.norm2(x))
        return mixed


class Mixer(nn.Module):
    """Patches to tokens, blocks, the mean over the tokens, and a classifier."""

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        tokens = (image_size // _PATCH) ** 2
        self.stem = nn.Linear(in_channels * _PATCH**2, _CHANNELS)
        self.blocks = nn.Sequential(*(MixerBlock(tokens, _CHANNELS) for _ in range(_BLOCKS)))
        self.norm = nn.LayerNorm(_CHANNELS)
        self.head = nn.Linear(_CHANNELS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, in_channels, H, W)."""
        patches = F.unfold(x, _PATCH, stride=_PATCH).transpose(1, 2)  # (B, tokens, C * 4 * 4)
        out = self.norm(self.blocks(self.stem(patches)))
        logits: Tensor = self.head(out.mean(1))
        return logits


@model("mixer_cifar", any_size=False)
def mixer_cifar(*, num_classes: int, in_channels: int, image_size: int) -> Mixer:
    """Return the network for images of this size; raises ValueError where no patches fit."""
    if image_size % _PATCH:
        raise ValueError(f"their side must be a multiple of {_PATCH}")
    return Mixer(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
