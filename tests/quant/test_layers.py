"""Quantized layers are their float twins on quantized operands, with the same Parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lsqctl.quant import QuantConv2d, QuantLinear, TensorSpec

W4, A4, NONE = TensorSpec(bits=4), TensorSpec(bits=4, signed=None), TensorSpec(bits=32)


def ready(layer, x):
    """Return ``layer`` with its quantizers calibrated on ``x`` and its own weight."""
    if layer.input_quantizer is not None:
        layer.input_quantizer.calibrate(x)
    if layer.weight_quantizer is not None:
        layer.weight_quantizer.calibrate(layer.weight)
    return layer


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": "same", "dilation": 2},
        {"padding": (2, 1), "stride": 2, "groups": 2, "bias": False},
    ],
    ids=str,
)
def test_a_convolution_is_that_of_the_quantized_operands(options, padding_mode):
    conv, x = nn.Conv2d(4, 6, 3, padding_mode=padding_mode, **options), torch.randn(2, 4, 9, 9)
    quant = ready(QuantConv2d.from_float(conv, W4, A4), x)
    twin = nn.Conv2d(4, 6, 3, padding_mode=padding_mode, **options)
    twin.weight, twin.bias = nn.Parameter(quant.weight_quantizer(conv.weight)), conv.bias
    assert torch.equal(quant(x), twin(quant.input_quantizer(x)))


def test_a_linear_layer_is_that_of_the_quantized_operands():
    linear, x = nn.Linear(7, 5), torch.randn(2, 3, 7)
    quant = ready(QuantLinear.from_float(linear, W4, A4), x)
    weight = quant.weight_quantizer(linear.weight)
    assert torch.equal(quant(x), F.linear(quant.input_quantizer(x), weight, linear.bias))


def test_the_padded_input_lies_on_the_grid():
    x = torch.rand(1, 1, 4, 4) + 5  # far from zero, and still zero can be coded
    quant = ready(QuantConv2d.from_float(nn.Conv2d(1, 1, 3, padding=1), NONE, A4), x)
    padded = F.pad(quant.input_quantizer(x), (1, 1, 1, 1))
    assert torch.equal(quant.input_quantizer(padded), padded)


@pytest.mark.parametrize(
    ("twin", "layer"), [(QuantConv2d, nn.Conv2d(3, 4, 3)), (QuantLinear, nn.Linear(3, 4))]
)
@pytest.mark.parametrize("training", [True, False])
def test_the_twin_has_the_same_parameters_flags_and_keys(twin, layer, training):
    layer.train(training)
    quant = twin.from_float(layer, W4, A4)
    assert quant.weight is layer.weight
    assert quant.bias is layer.bias
    assert all(module.training is training for module in quant.modules())
    assert {"weight", "bias"} <= quant.state_dict().keys()
    missing, unexpected = quant.load_state_dict(layer.state_dict(), strict=False)
    assert unexpected == []
    assert all("quantizer" in key for key in missing)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_step_sizes_lie_where_the_weight_lies_in_fp32_at_least(dtype):
    layer = nn.Linear(3, 4, dtype=dtype, device="meta")
    quant = QuantLinear.from_float(layer, W4, A4)
    for quantizer in (quant.input_quantizer, quant.weight_quantizer):
        assert quantizer.step_size.device.type == "meta"
        assert quantizer.step_size.dtype == torch.promote_types(dtype, torch.float32)


def test_making_a_twin_draws_no_random_number():
    conv, linear = nn.Conv2d(3, 4, 3), nn.Linear(3, 4)
    before = torch.get_rng_state()
    QuantConv2d.from_float(conv, W4, A4)
    QuantLinear.from_float(linear, W4, A4)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("weight", "activation"), [(W4, NONE), (NONE, A4), (NONE, NONE)])
def test_32_bits_means_no_quantizer_and_no_parameter(weight, activation):
    linear, x = nn.Linear(3, 4), torch.randn(5, 3)
    quant = ready(QuantLinear.from_float(linear, weight, activation), x)
    assert (quant.weight_quantizer is None) == (weight is NONE)
    assert (quant.input_quantizer is None) == (activation is NONE)
    steps = [name for name, _ in quant.named_parameters() if "step_size" in name]
    assert len(steps) == (weight is W4) + (activation is A4)
    if weight is activation:
        assert torch.equal(quant(x), linear(x))


def test_a_step_per_channel_has_one_for_each_output():
    spec = TensorSpec(bits=4, per_channel=True)
    conv = QuantConv2d.from_float(nn.Conv2d(4, 8, 3, groups=4), spec, A4)
    assert conv.weight_quantizer.step_size.shape == (8, 1, 1, 1)
    assert conv.input_quantizer.step_size.shape == ()
    linear = QuantLinear.from_float(nn.Linear(4, 8), spec, A4)
    assert linear.weight_quantizer.step_size.shape == (8, 1)


def test_depthwise_weights_of_uneven_size_collapse_per_tensor_and_not_per_channel():
    conv = nn.Conv2d(8, 8, 3, groups=8)
    with torch.no_grad():
        conv.weight.mul_(torch.logspace(-2, 1, 8).reshape(8, 1, 1, 1))
    alive = {}
    for per_channel in (False, True):
        spec = TensorSpec(bits=4, per_channel=per_channel)
        quant = ready(QuantConv2d.from_float(conv, spec, NONE), None)
        codes = quant.weight_quantizer.codes(conv.weight)
        alive[per_channel] = (codes != 0).flatten(1).any(1).sum().item()
    assert alive[True] == 8
    assert alive[False] < 6


def test_bf16_autocast_computes_the_layer_in_bf16_and_the_codes_in_fp32():
    x = torch.randn(4, 3, 8, 8)
    quant = ready(QuantConv2d.from_float(nn.Conv2d(3, 8, 3), W4, A4), x)
    codes = quant.weight_quantizer.codes(quant.weight)
    with torch.autocast("cpu", torch.bfloat16):
        out = quant(x.bfloat16())
        assert torch.equal(quant.weight_quantizer.codes(quant.weight), codes)
    assert out.dtype is torch.bfloat16
    out.float().sum().backward()
    assert quant.weight_quantizer.step_size.grad.dtype is torch.float32


@pytest.mark.slow
def test_a_layer_compiles_into_one_graph():
    x = torch.randn(2, 3, 8, 8)
    quant = ready(QuantConv2d.from_float(nn.Conv2d(3, 4, 3), W4, A4), x)
    compiled = torch.compile(quant, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), quant(x))
