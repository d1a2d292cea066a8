"""Costs equal the check values that were worked out by hand, and PyTorch's own counter."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lsqctl.quant import QuantSpec, calibrate, model_cost, prepare
from tests.conftest import fewer

IMAGE = (3, 224, 224)


class Block(nn.Module):
    """A CIFAR residual block; option A pads the shortcut's channels with zeros."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.stride, self.pad = stride, cout - cin

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(out + F.pad(shortcut, (0, 0, 0, 0, self.pad // 2, self.pad // 2)))


def resnet20():
    widths = [16, *[16] * 3, *[32] * 3, *[64] * 3]
    blocks = [Block(cin, cout, 1 + (cin != cout)) for cin, cout in pairwise(widths)]
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def on_meta(make, spec=None):
    with torch.device("meta"):
        model = make()
    return prepare(model, spec) if spec else model


@pytest.mark.parametrize(
    ("make", "weight", "act", "gmac", "megabytes", "gbops"),
    fewer(
        [
            (torchvision.models.resnet18, 2, 2, 1.814, 3.353, 14.4),
            (torchvision.models.resnet18, 4, 4, 1.814, 6.143, 34.7),
            (torchvision.models.resnet50, 3, 4, 4.089, 11.066, None),
            (torchvision.models.resnet50, 4, 4, 4.089, 13.997, 71.2),
        ],
        2,
    ),
)
def test_imagenet_nets_cost_what_was_worked_out(make, weight, act, gmac, megabytes, gbops):
    cost = model_cost(on_meta(make, QuantSpec(weight_bits=weight, act_bits=act)), IMAGE)
    assert round(cost.macs / 1e9, 3) == gmac
    assert round(cost.size_bytes / 1e6, 3) == megabytes
    assert gbops is None or round(cost.bops / 1e9, 1) == gbops


def test_cifar_resnet20_costs_what_was_worked_out():
    model = resnet20()
    plain = model_cost(model, (3, 32, 32))
    cost = model_cost(prepare(model, QuantSpec()), (3, 32, 32))
    assert cost.params == plain.params == 269_722
    assert cost.macs == plain.macs
    assert round(cost.macs / 1e6, 1) == 40.6
    assert round(cost.size_bytes / 1e6, 3) == 0.140
    assert (plain.size_bytes, plain.naive_bytes) == (4 * 269_722, 4 * 269_722)
    assert plain.bops == plain.macs * 32 * 32
    assert cost.naive_bytes == 269_722 // 2


@pytest.mark.parametrize(
    "make",
    fewer(
        [
            lambda: torchvision.models.mobilenet_v2(width_mult=0.25),  # depthwise
            torchvision.models.resnext50_32x4d,  # groups
            torchvision.models.convnext_tiny,  # linear layers on NHWC
        ],
        1,
    ),
    ids=fewer(["mobilenet", "resnext", "convnext"], 1),
)
def test_layers_add_up_to_what_torchs_counter_finds(make):
    model = on_meta(make).eval()
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model(torch.empty(1, 3, 64, 64, device="meta"))
    cost = model_cost(prepare(model, QuantSpec()), (3, 64, 64))
    layers = [layer for layer in cost.layers if layer.name != "(other)"]
    assert sum(layer.macs for layer in layers) == cost.macs == flops.get_total_flops() // 2


def test_a_depthwise_layer_by_hand():
    model = prepare(
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Linear(6, 5)), QuantSpec(per_channel=True)
    )
    conv, linear = model_cost(model, (8, 8, 8)).layers
    assert (conv.macs, conv.params) == (8 * 6 * 6 * 9, 8 * 9 + 8)
    assert conv.bops == conv.macs * 8 * 8
    assert conv.size_bytes == 72 + 4 * 8 + 4 * (8 + 1)  # codes, biases, 8 weight steps and 1
    assert (linear.macs, linear.size_bytes) == (8 * 6 * 30, 30 + 4 * 5 + 4 * (5 + 1))


def test_codes_are_packed_and_rounded_up_to_whole_bytes_per_layer():
    model = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(3)))
    prepare(model, QuantSpec(weight_bits=3, act_bits=2))
    middle = model_cost(model, (3,)).layers[1]
    assert middle.size_bytes == 4 + 8  # 27 bits, two steps
    assert (middle.weight_bits, middle.act_bits, middle.bops) == (3, 2, 9 * 6)


def test_the_projections_of_attention_are_layers_and_its_products_float_among_the_rest():
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    cost = model_cost(prepare(attention, QuantSpec(weight_bits=4, act_bits=4)), (4, 8))
    packed, out, *_, rest = cost.layers
    assert (packed.name, out.name) == ("self_attn.in_proj", "self_attn.out_proj")
    assert (packed.macs, out.macs) == (4 * 8 * 8 * 3, 4 * 8 * 8)
    assert (packed.weight_bits, packed.params, out.weight_bits) == (8, 3 * 8 * 8 + 3 * 8, 4)
    assert (rest.name, rest.macs) == ("(other)", 2 * 4 * 4 * 8)
    assert rest.size_bytes == 4 * rest.params
    assert cost.bops == sum(layer.bops for layer in cost.layers)


def test_a_layer_used_twice_counts_its_work_twice_and_its_bytes_once():
    shared = nn.Linear(4, 4)
    twice, once = (
        model_cost(prepare(nn.Sequential(*layers), QuantSpec()), (4,))
        for layers in ([shared, shared], [nn.Linear(4, 4)])
    )
    assert twice.macs == 2 * once.macs
    assert (twice.size_bytes, twice.params) == (once.size_bytes, once.params)


def test_a_layer_of_two_names_keeps_its_weight_when_it_is_counted():
    shared = nn.Linear(4, 4)
    weight = shared.weight
    tied = nn.Linear(4, 4, bias=False)
    tied.weight = weight
    model = nn.Sequential(shared, nn.BatchNorm1d(4), shared, tied)
    assert model_cost(model, (4,)).macs == 3 * 16
    assert shared.weight is weight
    assert tied.weight is weight
    assert all(tensor.device.type == "cpu" for tensor in model.state_dict().values())


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    cost = model_cost(model, (4,))
    assert (cost.params, cost.size_bytes, cost.macs) == (16, 64, 32)


def test_the_step_size_of_tied_weights_counts_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    cost = model_cost(prepare(model, QuantSpec(weight_bits=4, act_bits=4)), (4,))
    assert cost.size_bytes == 16 + 4 * 3  # 8-bit weights, their step and one of each input


def test_a_batch_norm_costs_8_bytes_a_channel_even_without_parameters():
    sizes = [
        model_cost(nn.Sequential(nn.Conv2d(1, 6, 1), norm), (1, 2, 2)).size_bytes
        for norm in (nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False), nn.Identity())
    ]
    assert sizes == [48 + 8 * 6, 48 + 8 * 6, 48]


def test_counting_leaves_the_model_as_it_was_and_needs_no_calibration(small_net, images):
    prepare(small_net, QuantSpec()).train()
    small_net[4].eval()
    flags = [module.training for module in small_net.modules()]
    state = {key: value.clone() for key, value in small_net.state_dict().items()}
    parameters = list(small_net.parameters())
    before = model_cost(small_net, (3, 8, 8))
    assert [module.training for module in small_net.modules()] == flags
    assert all(torch.equal(small_net.state_dict()[key], value) for key, value in state.items())
    assert all(a is b for a, b in zip(parameters, small_net.parameters(), strict=True))
    assert all(not module._forward_hooks for module in small_net.modules())
    calibrate(small_net, images)
    assert model_cost(small_net, (3, 8, 8)) == before


def test_a_model_in_training_mode_is_counted_as_in_evaluation():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).train()  # needs two inputs to train
    assert model_cost(model, (4,)).macs == 12
    assert model[1].training
