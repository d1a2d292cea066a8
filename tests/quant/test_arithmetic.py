"""The integer arithmetic is one function: exact, and the fake-quantized network within rounding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lsqctl.quant import (
    QuantConv2d,
    QuantLinear,
    QuantSpec,
    TensorSpec,
    arithmetic,
    calibrate,
    prepare,
)
from lsqctl.quant.arithmetic import (
    Grid,
    IntegerLayer,
    NotInteger,
    Window,
    convolve_by_columns,
    integer_layer,
    norm_affine,
)
from lsqctl.quant.integer import EXACT_FP32

UNPADDED = Window((1, 1), ((0, 0), (0, 0)), (1, 1), 1, "constant")


def layer_of(codes: torch.Tensor, *, highest: int = 255, window: Window | None = None):
    channels = codes.shape[0]
    grid = Grid(torch.tensor(0.5), None, 0, highest)
    scale, shift = torch.full((channels,), 0.25), torch.zeros(channels)
    return IntegerLayer("layer", grid, codes.to(torch.int8), 8, scale, shift, window)


@given(st.integers(0, 10_000), st.integers(1, 600), st.sampled_from([3, 15, 255]))
def test_accumulators_are_those_of_64_bit_integers(seed, width, highest):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-128, 128, (4, width), generator=generator)
    codes = torch.randint(0, highest + 1, (3, width), generator=generator)
    found = layer_of(weight, highest=highest).accumulators(codes.float())
    assert torch.equal(found.to(torch.int64), codes @ weight.T)


def test_above_the_bound_of_fp32_they_are_exact_still():
    weight = torch.full((1, 2048), 127)
    layer = layer_of(weight)
    assert layer.accumulator_bound == 255 * 127 * 2048 > EXACT_FP32
    codes = torch.full((1, 2048), 255.0)
    codes[0, 0] = 254  # an odd sum above 2**24 is no fp32 number
    assert layer.accumulators(codes).item() == 255 * 127 * 2048 - 127


def test_below_the_bound_the_order_of_a_convolution_does_not_matter():
    torch.manual_seed(0)
    weight, codes = torch.randint(-8, 8, (16, 64, 3, 3)), torch.randint(0, 16, (2, 64, 9, 9))
    layer = layer_of(weight, highest=15, window=UNPADDED)
    forward = layer.accumulators(codes.float())
    backward = F.conv2d(codes.flip(1).double(), weight.flip(1).double())
    assert torch.equal(forward.double(), backward)


@given(
    st.integers(0, 10_000),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([(3,), (3, 2), (1, 1)]),
)
def test_a_convolution_by_columns_is_the_convolution(seed, stride, dilation, groups, size):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (3, 8, 11, 13)[: 2 + len(size)], generator=generator).float()
    weight = torch.randint(-8, 8, (12, 8 // groups, *size), generator=generator).float()
    n = len(size)
    window = Window((stride,) * n, ((0, 0),) * n, (dilation,) * n, groups, "constant")
    direct = {1: F.conv1d, 2: F.conv2d}[n](codes, weight, None, stride, 0, dilation, groups)
    with pytest.MonkeyPatch.context() as patch:
        for columns_at_once in (1, 1 << 20):  # image by image, all at once
            patch.setattr(arithmetic, "_COLUMNS", columns_at_once)
            assert torch.equal(convolve_by_columns(codes, weight, window), direct)
    assert convolve_by_columns(codes[:0], weight, window).shape == (0, *direct.shape[1:])


def test_elsewhere_than_on_a_cpu_convolutions_are_products_of_matrices(monkeypatch):
    window = Window((2, 1), ((1, 1), (0, 0)), (1, 1), 2, "constant")
    layer = layer_of(torch.ones(16, 4, 3, 3), highest=15, window=window)
    expected = layer.accumulators(torch.ones(2, 8, 9, 9)).shape
    devices = []

    def watched(codes, *rest):
        devices.append(codes.device.type)
        return convolve_by_columns(codes, *rest)

    monkeypatch.setattr(arithmetic, "convolve_by_columns", watched)
    monkeypatch.setattr(Grid, "zero_code", 0)  # meta has shapes and no values
    elsewhere = layer.to(torch.device("meta"))
    codes = torch.ones(2, 8, 9, 9, device="meta")
    found = elsewhere._accumulate(codes, elsewhere.weight_codes.float())
    assert (found.shape, devices) == (expected, ["meta"])
    assert {elsewhere.grid.step.device.type, elsewhere.scale.device.type} == {"meta"}


def test_autocast_around_it_changes_nothing():
    codes = torch.randint(0, 256, (2, 300)).float()
    layer = layer_of(torch.randint(-128, 128, (4, 300)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer.outputs(layer.accumulators(codes))
    assert inside.dtype is torch.float32
    assert torch.equal(inside, layer.outputs(layer.accumulators(codes)))


def prepared(module: nn.Module, x: torch.Tensor, **spec: object) -> nn.Module:
    """A prepared, calibrated copy whose quantizers of weights and inputs have 4 bits."""
    four = {f"{end}_{kind}_bits": 4 for end in ("first", "last") for kind in ("weight", "act")}
    model = prepare(module, QuantSpec(**{**four, **spec}))
    calibrate(model, [x])
    return model.eval()


@pytest.mark.parametrize("spec", [{}, {"per_channel": True}, {"act_offset": "learned"}])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 2, "stride": 2, "dilation": 2, "bias": False},
        {"padding": 1, "groups": 4},
        {"padding": (1, 0), "padding_mode": "reflect"},
        {"padding": "same"},
    ],
    ids=str,
)
def test_a_convolution_gives_the_product_s_values_within_rounding(options, spec):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 10, 10) + 0.7
    layer = prepared(nn.Conv2d(4, 8, 3, **options), x, **spec)
    assert isinstance(layer, QuantConv2d)
    torch.testing.assert_close(integer_layer("c", layer)(x), layer(x), rtol=1e-5, atol=1e-5)


def test_what_is_padded_is_the_code_of_zero():
    x = torch.rand(1, 1, 4, 4) + 0.3  # an offset that zero does not lie on
    layer = prepared(nn.Conv2d(1, 1, 3, padding=1), x, act_offset="learned", act_signed="unsigned")
    integer = integer_layer("c", layer)
    assert layer.input_quantizer.active_offset is not None
    on_grid = layer.input_quantizer(torch.zeros(1))
    assert torch.equal(integer.grid.values(torch.tensor([float(integer.grid.zero_code)])), on_grid)
    torch.testing.assert_close(integer(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_is_folded_with_its_own_sign(affine):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8, affine=affine).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    if affine:
        nn.init.normal_(norm.weight)  # negative gains too
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 4, 6, 6)
    layer = prepared(nn.Conv2d(4, 8, 3), x)
    expected = norm(layer(x))
    torch.testing.assert_close(integer_layer("c", layer, norm)(x), expected, rtol=1e-4, atol=1e-5)
    gain, bias = norm_affine(norm, 8)
    folded = layer(x).double() * gain.view(-1, 1, 1) + bias.view(-1, 1, 1)
    torch.testing.assert_close(folded.float(), expected, rtol=1e-4, atol=1e-5)


def test_a_layer_with_a_float_operand_or_of_another_kind_is_refused_by_name():
    x = torch.randn(2, 4, 6, 6)
    half = prepared(nn.Conv2d(4, 8, 3), x, first_weight_bits=32, last_weight_bits=32)
    with pytest.raises(NotInteger, match=r"'head' has a float operand"):
        integer_layer("head", half)
    transposed = prepared(nn.ConvTranspose2d(4, 8, 3), x)
    with pytest.raises(NotInteger, match=r"'up' is a QuantConvTranspose2d, which has no integer"):
        integer_layer("up", transposed)


def test_an_accumulator_beyond_32_bits_is_refused():
    width = (1 << 31) // (127 * 255) + 1
    linear = QuantLinear(
        width, 1, weight_spec=TensorSpec(), input_spec=TensorSpec(signed=False), bias=False
    )
    nn.init.constant_(linear.weight, 1.0)
    for quantizer in (linear.weight_quantizer, linear.input_quantizer):
        quantizer.calibrate(torch.ones(4))
    with torch.no_grad():
        linear.weight_quantizer.step_size.fill_(1 / 127)
    with pytest.raises(NotInteger, match="passes 32 bits"):
        integer_layer("wide", linear)


def test_an_accumulator_of_2_to_31_of_the_lowest_codes_is_refused_and_one_less_is_not():
    def linear(width):
        specs = {"weight_spec": TensorSpec(), "input_spec": TensorSpec(signed=True)}
        layer = QuantLinear(width, 1, **specs, bias=False)
        nn.init.constant_(layer.weight, -1.0)
        for quantizer in (layer.weight_quantizer, layer.input_quantizer):
            quantizer.calibrate(torch.ones(4))
        with torch.no_grad():
            layer.weight_quantizer.step_size.fill_(1 / 128)
        return layer

    width = (1 << 31) // (128 * 128)
    with pytest.raises(NotInteger, match="may accumulate 2147483648, which passes 32 bits"):
        integer_layer("wide", linear(width))
    bound = integer_layer("narrower", linear(width - 1)).accumulator_bound
    assert bound == 128 * 128 * (width - 1)
