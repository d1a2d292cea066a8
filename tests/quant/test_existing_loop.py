"""Four calls added to an ordinary training loop quantize it, and it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsqctl.quant import QuantSpec, calibrate, clamp_step_sizes, param_groups, prepare, quantizers


def stripes(count):
    """Return images with one bright row, and which row it is."""
    labels = torch.randint(0, 4, (count,))
    images = 0.3 * torch.randn(count, 1, 4, 4)
    images[torch.arange(count), 0, labels] += 1
    return images, labels


def accuracy(model, images, labels):
    model.eval()
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("bits", [2, 4])
def test_an_existing_training_loop_learns_and_every_step_moves(bits):
    images, labels = stripes(256)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(128, 4)),
    )
    prepare(model, QuantSpec(weight_bits=bits, act_bits=bits))
    calibrate(model, images[:64])
    optimizer = torch.optim.SGD(param_groups(model, lr=0.01, weight_decay=1e-4), momentum=0.9)
    handle = clamp_step_sizes(optimizer, model)
    first = {name: q.step_size.item() for name, q in quantizers(model).items()}

    model.train()
    for batch in torch.arange(256).repeat(10).split(64):
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert accuracy(model, *stripes(200)) > 0.9
    for name, quantizer in quantizers(model).items():
        assert quantizer.step_size.item() > 0
        assert quantizer.step_size.item() != first[name], name
    handle.remove()
