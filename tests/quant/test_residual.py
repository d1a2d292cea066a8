"""Both inputs of residual additions are quantized where asked, and left alone where not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lsqctl.models.factory import build_model
from lsqctl.quant import QuantSpec, calibrate, model_cost, prepare, quantizers

SIZE = {"resnet8": 16, "squeezenext23_2x": 64}
OFF = {f"{p}{k}_bits": 32 for p in ("", "first_", "last_") for k in ("weight", "act")}


class Block(nn.Module):
    residual_inputs = ("conv", "skip")

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.skip = None

    def forward(self, x):
        return self.conv(x) + (x if self.skip is None else self.skip(x))


def prepared(name, **spec):
    torch.manual_seed(0)
    model = build_model(name, num_classes=5)
    images = torch.randn(2, 3, SIZE.get(name, 32), SIZE.get(name, 32))
    return prepare(model, QuantSpec(**spec)), images


def residual(model):
    return {n: q for n, q in quantizers(model).items() if ".residual_quantizers." in n}


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet18", 8), ("resnet50", 16), ("resnet8", 3), ("preact_resnet18", 8),
        ("preact_resnet50", 16), ("squeezenext23_2x", 21), ("resnext50_32x4d", 16),
    ],
)  # fmt: skip
def test_each_addition_has_two_quantizers_and_no_key_of_the_state_changes(name, blocks):
    with torch.device("meta"):
        model = build_model(name, num_classes=5)
        keys = set(model.state_dict())
        prepare(model, QuantSpec(**OFF, residual_bits=4))
    assert len(residual(model)) == len(quantizers(model)) == 2 * blocks
    assert keys == {key for key in model.state_dict() if ".residual_quantizers." not in key}


def test_what_is_added_lies_on_the_grids():
    block = prepare(nn.Sequential(Block()), QuantSpec(**OFF, residual_bits=2))
    x = torch.randn(4, 2, 5, 5)
    calibrate(block, x)
    branch, shortcut = (block[0].residual_quantizers[role] for role in ("branch", "shortcut"))
    assert branch.step_size != shortcut.step_size
    plain = F.conv2d(x, block[0].conv.weight, block[0].conv.bias)
    assert torch.equal(block(x), branch(plain) + shortcut(x))


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "preact_resnet18"])
def test_every_step_of_an_addition_gets_a_value_and_a_gradient(name):
    model, images = prepared(name, residual_bits=8)
    calibrate(model, images)
    model.train()
    model(images).square().sum().backward()
    steps = residual(model)
    assert all(one.calibrated for one in steps.values())
    assert all(one.step_size.grad.abs() > 0 for one in steps.values())


def test_it_is_left_alone_unless_asked():
    model, _ = prepared("resnet8")
    assert residual(model) == {}


def test_a_copy_is_quantized_by_quantizers_of_its_own():
    model, images = prepared("resnet8", residual_bits=4)
    calibrate(model, images)
    twin = copy.deepcopy(model).eval()
    before = twin(images)
    with torch.no_grad():
        for one in residual(model).values():
            one.step_size.mul_(10)
    assert torch.equal(twin(images), before)
    assert not torch.equal(model.eval()(images), before)


def test_a_network_without_a_known_addition_is_refused_in_one_line(small_net):
    with pytest.raises(ValueError, match=r"no residual addition .* leave residual_bits at 32"):
        prepare(small_net, QuantSpec(residual_bits=8))


def test_each_step_of_an_addition_costs_four_bytes_and_no_work():
    plain, _ = prepared("resnet8")
    model, _ = prepared("resnet8", residual_bits=8)
    one, other = (model_cost(net, (3, 16, 16)) for net in (plain, model))
    assert other.size_bytes == one.size_bytes + 4 * 6
    assert (other.params, other.macs, other.bops) == (one.params, one.macs, one.bops)


@pytest.mark.slow
def test_a_block_compiles_into_one_graph():
    block = prepare(nn.Sequential(Block()), QuantSpec(residual_bits=4))
    x = torch.randn(4, 2, 5, 5)
    calibrate(block, x)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), block(x))
