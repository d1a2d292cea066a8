"""A network of one convolution, for images of any size."""

from torch import nn

from lsqctl.plugins import model


@model("tinynet")
def tinynet(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Return the network with random weights."""
    features = [nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(
        *features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, num_classes)
    )
