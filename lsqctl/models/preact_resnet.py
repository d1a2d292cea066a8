"""Pre-activation ResNets for 224x224 images (He et al. 2016), the networks of the LSQ paper.

Identity Mappings in Deep Residual Networks, arXiv 1603.05027. The convolutions are those of
torchvision's ResNets, the stride of a bottleneck on its 3x3. Norm and ReLU come before each
convolution; a shortcut that changes shape takes the activated input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsqctl.models import model

# depth: blocks in each of the four stages, and whether they are bottlenecks
DEPTHS: dict[int, tuple[tuple[int, int, int, int], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
_EXPANSION = 4


class PreactBlock(nn.Module):
    """Convolutions, each after its norm and ReLU, and a shortcut.

    ``sizes`` holds (channels, kernel size, stride) of each. ``activated`` says that the input has
    its norm and ReLU already: the first block, after the stem.
    """

    def __init__(
        self, channels_in: int, sizes: list[tuple[int, int, int]], *, activated: bool
    ) -> None:
        super().__init__()
        norms: list[nn.Module] = []
        convs: list[nn.Module] = []
        channels = channels_in
        for out, kernel, stride in sizes:
            norms.append(nn.BatchNorm2d(channels))
            convs.append(nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False))
            channels = out
        if activated:
            norms[0] = nn.Identity()
        self.activated = activated
        self.norms, self.convs = nn.ModuleList(norms), nn.ModuleList(convs)
        stride = max(stride for _, _, stride in sizes)
        shape_changes = stride > 1 or channels != channels_in
        self.shortcut = (
            nn.Conv2d(channels_in, channels, 1, stride, bias=False) if shape_changes else None
        )
        self.identity = nn.Identity()
        # whose outputs are added
        shortcut = "shortcut" if shape_changes else "identity"
        self.residual_inputs = (f"convs.{len(convs) - 1}", shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, H/stride, W/stride)."""
        out = x if self.activated else F.relu(self.norms[0](x))
        shortcut = self.identity(x) if self.shortcut is None else self.shortcut(out)
        out = self.convs[0](out)
        for norm, conv in zip(self.norms[1:], self.convs[1:], strict=True):
            out = conv(F.relu(norm(out)))
        total: Tensor = out + shortcut
        return total


class PreactResNet(nn.Module):
    """A stem, four stages of 64, 128, 256 and 512 channels (x4 with bottlenecks), and a classifier.

    ``depth`` is a key of ``DEPTHS``.
    """

    def __init__(self, depth: int, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks, bottleneck = DEPTHS[depth]
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        stages: list[nn.Module] = []
        channels = 64
        for stage, count in enumerate(blocks):
            units = []
            for unit in range(count):
                stride = 2 if stage and not unit else 1
                sizes = _sizes(64 * 2**stage, stride, bottleneck)
                units.append(PreactBlock(channels, sizes, activated=not (stage or unit)))
                channels = sizes[-1][0]
            stages.append(nn.Sequential(*units))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        self.apply(_kaiming)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, in_channels, H, W)."""
        out = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        out = F.relu(self.bn2(out))
        logits: Tensor = self.fc(out.mean((2, 3)))
        return logits


def _sizes(channels: int, stride: int, bottleneck: bool) -> list[tuple[int, int, int]]:
    if bottleneck:
        return [(channels, 1, 1), (channels, 3, stride), (_EXPANSION * channels, 1, 1)]
    return [(channels, 3, stride), (channels, 3, 1)]


@torch.no_grad()
def _kaiming(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@model("preact_resnet18 preact_resnet34 preact_resnet50 preact_resnet101 preact_resnet152")
def preact_resnet(
    name: str, *, num_classes: int, in_channels: int, image_size: int
) -> PreactResNet:
    """Return the ResNet whose name ends in its depth."""
    depth = int(name.rpartition("resnet")[2])
    return PreactResNet(depth, num_classes=num_classes, in_channels=in_channels)
