"""A training does not meet torch's fault: 1 × 1 convolutions of few channels, with a stride."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from lsqctl.quant import integer
from lsqctl.quant.torch_faults import avoid_unsafe_channels_last, is_unsafe_channels_last

TRAINING = """
import sys, torch
from torch import nn
from lsqctl.quant import QuantSpec, calibrate, prepare
from lsqctl.quant.torch_faults import avoid_unsafe_channels_last

kernel = sys.argv[1]
torch.set_num_threads(2)
net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                    nn.Conv2d(8, 16, 1, stride=2), nn.Conv2d(16, 10, 16), nn.Flatten())
images = torch.randn(15, 3, 32, 32).contiguous(memory_format=torch.channels_last)
if kernel != "full precision":
    prepare(net, QuantSpec(weight_bits=4, act_bits=4, kernel=kernel), images)
    calibrate(net, [images])
avoid_unsafe_channels_last(net)
net.train()
for step in range(20):
    net.zero_grad()
    net(images).square().mean().backward()
print("trained")
"""


@pytest.mark.parametrize("kernel", ["full precision", "float", "integer"])
def test_a_batch_that_threads_cannot_share_out_is_trained(kernel):
    """Without the way around it, torch 2.15 ends the process by SIGSEGV or SIGABRT."""
    if kernel == "integer" and not integer.is_available():
        pytest.skip("torch has no integer kernel here")
    words = [sys.executable, "-c", TRAINING, kernel]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


@pytest.mark.parametrize(
    ("layer", "unsafe"),
    [
        (nn.Conv2d(8, 16, 1, 2), True),
        (nn.Conv2d(64, 16, 1, 2, groups=8), True),
        (nn.Conv2d(16, 16, 1, 2), False),
        (nn.Conv2d(8, 16, 1), False),
        (nn.Conv2d(8, 16, 3, 2), False),
    ],
)
def test_such_layers_alone_compute_on_plain_images_and_only_in_training(layer, unsafe):
    assert is_unsafe_channels_last(layer.weight, layer.stride) is unsafe
    taken = []
    layer.register_forward_hook(lambda module, inputs, output: taken.append(inputs[0]))
    avoid_unsafe_channels_last(layer)
    images = torch.randn(2, layer.in_channels, 8, 8).contiguous(memory_format=torch.channels_last)
    layer.train()(images)
    layer.eval()(images)
    assert [one.is_contiguous() for one in taken] == [unsafe, False]
