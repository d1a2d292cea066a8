"""A network that is evaluated in integers computes what its deployed file does, to the last bit."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lsqctl.models.factory import build_model
from lsqctl.quant import LayerOverride, integer_network
from lsqctl.quant.arithmetic import IntegerLayer
from lsqctl.quant.integer import rounds_twice
from tests.deploy.networks import (
    EVEN,
    Chain,
    Everything,
    Windows,
    images,
    normalized,
    prepared,
    traced,
)

SPECS = {
    "w4a4": {},
    "residual additions": {"residual_bits": 8},
    "w2a2, a step a channel": {"weight_bits": 2, "act_bits": 2, "per_channel": True},
    "offsets": {"act_offset": "learned", "act_signed": "unsigned"},
    "some half float": {"overrides": {"conv3": LayerOverride(weight_bits=32, act_bits=4)}},
}


def in_integers(model, size=8):
    return integer_network.integer_network(model, torch.zeros(1, 3, size, size))


def assert_same_bits(model, size=8, count=20):
    pixels = images(count, size)
    assert torch.equal(in_integers(model, size)(normalized(pixels)), traced(model, size)(pixels))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_logits_are_the_reference_s_in_every_bit(spec):
    assert_same_bits(prepared(**spec))


@EVEN
@pytest.mark.parametrize("kind", [Chain, Windows])
def test_logits_are_the_reference_s_whatever_is_padded_and_however_windows_move(kind):
    assert_same_bits(prepared(kind()))


@pytest.mark.parametrize("name", ["resnet8", pytest.param("mobilenet_v2", marks=pytest.mark.slow)])
def test_logits_of_whole_networks_are_the_reference_s(name):
    model = build_model(name, num_classes=10, in_channels=3, image_size=32)
    assert_same_bits(prepared(model, size=32), 32, count=3)


def test_batches_threads_and_the_order_of_memory_change_no_bit():
    network, x = in_integers(prepared()), normalized(images(20))
    expected = network(x)
    batches = [one.contiguous(memory_format=torch.channels_last) for one in x.split(7)]
    threads = torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            assert torch.equal(torch.cat([network(one) for one in batches]), expected)
    finally:
        torch.set_num_threads(threads)


def test_another_device_is_tried_against_the_cpu(monkeypatch):
    model, device, shape = prepared(), torch.device("cpu"), (3, 8, 8)
    assert integer_network.computes_alike(device, model, shape)
    outputs, calls = IntegerLayer.outputs, []

    def fused(layer, accumulators):
        calls.append(layer.name)
        if len(calls) <= n_layers:  # of the CPU
            return outputs(layer, accumulators)
        exact = accumulators.double() * layer.scale.double().view(-1, 1, 1)
        return (exact + layer.shift.double().view(-1, 1, 1)).float()

    n_layers = len(integer_network.integer_layers(model))
    spread = prepared(act_offset="learned", act_signed="unsigned")  # no kernels: by definition
    monkeypatch.setattr(IntegerLayer, "outputs", fused)
    assert not integer_network.computes_alike(device, spread, shape)
    assert len(calls) == 2 * n_layers


def test_kernels_that_round_otherwise_are_not_given_the_scale(monkeypatch):
    network, x = in_integers(prepared()), normalized(images(20))
    expected = network(x)
    monkeypatch.setattr(integer_network, "rounds_twice", lambda: False)
    assert torch.equal(network(x), expected)


def test_whether_a_kernel_rounds_twice_is_tried(monkeypatch):
    assert rounds_twice()
    from lsqctl.quant import integer

    product = integer._kernel_product

    def fused(codes, weight, groups, scale, bias):
        sums = product(codes, weight, groups, torch.ones(1), None)
        if bias is None:
            return sums * (scale if scale.numel() == 1 else scale.view(-1, 1, 1))
        shape = (-1,) if weight.dim() == 2 else (-1, 1, 1)
        return (sums.double() * scale.view(shape) + bias.view(shape)).float()

    monkeypatch.setattr(integer, "_kernel_product", fused)
    assert not rounds_twice.__wrapped__()


def test_a_processor_without_wide_products_gives_the_same_bits(tmp_path):
    """Without VNNI kernels clip sums of 8-bit products: the same bits, by other means."""
    code = (
        "import sys, torch\n"
        "from tests.deploy.test_integer_network import in_integers, images, normalized, prepared\n"
        "network = in_integers(prepared(weight_bits=8, act_bits=8))\n"
        "torch.save(network(normalized(images(20))), sys.argv[1])\n"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-c", code, str(tmp_path / "logits")]
    subprocess.run(command, env=environment, check=True, timeout=120)
    here = in_integers(prepared(weight_bits=8, act_bits=8))(normalized(images(20)))
    assert torch.equal(torch.load(tmp_path / "logits"), here)


def of_whole_numbers(model):
    """Give a prepared model values that no machine rounds or draws otherwise."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            low, high = (5, 17) if "step" in name else (24, 96) if "var" in name else (-64, 64)
            drawn = torch.randint(low, high, value.shape, generator=generator)
            value.copy_(drawn / (256 if "step" in name else 64))
    return model


@pytest.mark.parametrize(
    ("spec", "digest"),
    [
        ({}, "e0a9c64f66667634"),
        ({"weight_bits": 8, "act_bits": 8}, "120fbc07ab64dfa9"),
        ({"act_offset": "learned", "act_signed": "unsigned"}, "94ab744ff04bf079"),
    ],
)
def test_logits_are_those_of_the_machines_before_to_the_last_bit(spec, digest):
    network = in_integers(of_whole_numbers(prepared(**spec)))
    logits = network(normalized(images(20)))
    assert len(logits.unique()) > 90
    assert hashlib.sha256(logits.numpy().tobytes()).hexdigest()[:16] == digest


class Readers(nn.Module):
    """Norms that may not go into the layer before them, and one that may."""

    def __init__(self):
        super().__init__()
        self.alone, self.norm_alone = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.shared, self.norm_shared = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.twice, self.norm_twice = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.moved, self.norm_moved = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        for norm in (self.norm_alone, self.norm_shared, self.norm_twice, self.norm_moved):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.norm_alone(self.alone(x)).relu()
        y = self.shared(x)
        x = self.norm_shared(y) + y
        x = self.norm_twice(self.twice(self.norm_twice(self.twice(x))))
        x = self.norm_moved(self.moved(x).mul_(2))
        return self.head(F.adaptive_avg_pool2d(x.relu(), 1).flatten(1))


def test_a_norm_goes_into_a_layer_that_it_alone_reads_once():
    model = prepared(Readers()).train()
    layers = integer_network.integer_layers(model)
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    found = integer_network.foldable_norms(model, layers, norms, torch.zeros(1, 3, 8, 8))
    assert found == {"alone": "norm_alone"}
    assert model.training
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert_same_bits(model.eval())
    network, x = in_integers(model).network, torch.randn(1, 4, 2, 2)
    assert network.norm_alone(x) is x
    assert not torch.equal(network.norm_shared(x), x)


class Means(nn.Module):
    """Means over images as networks write them, of more numbers than a vector holds."""

    def __init__(self):
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 1)

    def forward(self, x):
        x = self.conv(self.first(x).relu())
        pooled = F.adaptive_avg_pool2d(x, 1).flatten(1), torch.mean(x, dim=[-1, -2])
        return torch.cat([*pooled, x.mean((2, 3), keepdim=True).flatten(1)], 1)


def test_means_over_images_are_added_row_by_row():
    model, pixels = prepared(Means(), size=31), images(20, 31)
    assert_same_bits(model, 31)
    x = model.first(normalized(pixels))
    with integer_network._OrderedMeans():
        found = x.mean((2, 3))
    row_by_row = torch.zeros(x.shape[:2])
    for value in x.flatten(2).unbind(2):
        row_by_row += value
    assert torch.equal(found, row_by_row / 31**2)
    assert not torch.equal(found, x.mean((2, 3)))


def test_a_view_of_what_a_kernel_laid_out_otherwise_is_taken_as_a_copy():
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
            self.head = nn.Linear(96, 5)

        def forward(self, x):
            return self.head(self.conv(self.first(x).relu()).relu().view(x.shape[0], -1))

    assert_same_bits(prepared(Viewed()))


def test_the_model_itself_is_left_as_it_was():
    model, x = prepared(Everything()), normalized(images())
    before, state = model(x), {key: value.clone() for key, value in model.state_dict().items()}
    in_integers(model)
    assert torch.equal(model(x), before)
    after = model.state_dict()
    assert all(
        torch.equal(value, after[key])
        for key, value in state.items()
        if value.dtype.is_floating_point
    )


def test_a_value_that_is_not_a_number_is_not_lost():
    x = normalized(images(4))
    x[1, 0, 3, 3] = torch.nan
    assert in_integers(prepared())(x)[1].isnan().any()


def test_what_has_no_integer_form_is_said_of_its_layer():
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.head = nn.ConvTranspose2d(3, 4, 2), nn.Linear(4, 5)

        def forward(self, x):
            return self.head(self.up(x).mean((2, 3)))

    reason = integer_network.no_integer_network(prepared(Transposed()))
    assert reason == "its layer up is a QuantConvTranspose2d, which has no integer form"
    halves = prepared(act_bits=32, first_act_bits=32, last_act_bits=32)
    assert "no layer of it has both" in integer_network.no_integer_network(halves)
    assert integer_network.no_integer_network(prepared()) == ""
