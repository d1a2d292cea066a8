"""Small networks with what deployment meets, and the counts of one written file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsqctl.deploy.certificate import certify, proofs
from lsqctl.deploy.checking import CheckCounts, Comparison, reference_answers
from lsqctl.deploy.exact import ExactForm
from lsqctl.deploy.network import Network
from lsqctl.deploy.onnx_graph import export, write_onnx
from lsqctl.deploy.runtime import Array, onnx_answers
from lsqctl.deploy.tracing import Pixels, trace
from lsqctl.quant import QuantSpec, calibrate, prepare, quantized_layers

PIXELS = Pixels((0.4, 0.5, 0.6), (0.2, 0.3, 0.25), 3)


class Everything(nn.Module):
    """(B, 3, 8, 8) to (B, 5): a shortcut, groups, a norm before a layer, one read twice."""

    residual_inputs = ("norm2", "shortcut")

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.shortcut = nn.Conv2d(8, 8, 1)
        self.norm3 = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 16, 3, stride=2, padding=1, padding_mode="circular")
        self.linear = nn.Linear(16, 5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias, std=0.3)
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        out = F.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out)) + self.shortcut(out)
        out = F.relu(self.norm3(out))
        out = F.avg_pool2d(F.relu(self.conv3(out)), 4).flatten(1)
        return self.linear(out)


class Chain(nn.Module):
    """(B, 3, 8, 8) to (B, 5): layers one behind another, so that one accumulator decides codes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm2 = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 8, 3, stride=2, padding=1, padding_mode="circular")
        self.linear1 = nn.Linear(128, 16)
        self.linear2 = nn.Linear(16, 5)
        for norm in (self.norm1, self.norm2):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias, std=0.3)
            norm.running_mean.normal_(std=0.2)
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        out = F.relu(self.norm1(self.conv1(x)))
        out = F.relu6(self.norm2(self.conv2(out)))
        out = F.relu(self.conv3(out)).flatten(1)
        return self.linear2(F.relu(self.linear1(out)))


EVEN = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


class Windows(nn.Module):
    """(B, 3, 8, 8) to (B, 5): padding that differs by side, and dilations that differ by axis."""

    def __init__(self) -> None:
        super().__init__()
        self.even = nn.Conv2d(3, 6, (2, 4), padding="same")
        self.wide = nn.Conv2d(6, 6, 3, padding=(2, 3), dilation=(2, 3))
        self.both = nn.Conv2d(6, 6, (4, 2), padding="same", dilation=(1, 3))
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.even(x).relu()
        y = self.wide(x) + x  # a sum: what reads it lays its input out by itself
        return self.head(self.both(y).relu().mean((2, 3)))


def images(count: int = 4, size: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def normalized(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXELS.mean, PIXELS.std))
    return pixels.float().div(255).sub(mean).div(std)


def prepared(model: nn.Module | None = None, *, size: int = 8, **spec: object) -> nn.Module:
    """A prepared model, calibrated with made-up images."""
    torch.manual_seed(0)
    model = prepare(model or Everything(), QuantSpec(**spec))
    calibrate(model, [normalized(images(8, size, seed=1))])
    return model.eval()


def steep(model: nn.Module, **spec: object) -> nn.Module:
    """A prepared model whose weights all have the largest code."""
    model = prepared(model, **spec)
    for layer in quantized_layers(model).values():
        high = layer.weight_quantizer.bounds[1] * layer.weight_quantizer.step_size.abs()
        flat = layer.master_weight.data.sign() * high.detach()
        layer.master_weight.data.copy_(flat)
    return model


def traced(model: nn.Module, size: int = 8) -> Network:
    return trace(model, (3, size, size), PIXELS)


_EXPORTED: dict[int, tuple[Network, onnx.ModelProto]] = {}  # with the network: ids are used again


def exported(network: Network) -> onnx.ModelProto:
    """The network in ONNX; torch takes a second for it, so once."""
    if id(network) not in _EXPORTED:
        _EXPORTED[id(network)] = network, export(network)
    return _EXPORTED[id(network)][1]


@cache
def base() -> Network:
    """The network that most tests look at."""
    return traced(prepared())


class Checker(Comparison):
    """Compares one ONNX file, run by onnxruntime, with the reference.

    The file runs twice: as it is, for its logits, and with its codes as further outputs.
    """

    def __init__(
        self, network: Network, file: bytes, tap_names: Mapping[str, str], *, threads: int = 1
    ) -> None:
        super().__init__(network)
        self._answer = onnx_answers(file, tap_names, threads=threads)

    def add(self, images: Tensor, labels: Tensor | None = None) -> tuple[Array, Array]:
        """Compare one batch of images, as the network takes them; return both's logits.

        The reference's come first.
        """
        reference, found = reference_answers(self.network, images), self._answer(images.numpy())
        self.compare(reference, found, labels)
        return reference.logits, found.logits


def compared(
    network: Network, pixels: Tensor, *, plain: bool = False, threads: int = 1
) -> CheckCounts:
    """Write the exact form and compare it with the reference."""
    form = ExactForm(network, plain, proofs(certify(network)))
    model, taps = write_onnx(exported(network), form, {})
    checker = Checker(network, model.SerializeToString(), taps, threads=threads)
    checker.add(pixels)
    return checker.counts
