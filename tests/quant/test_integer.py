"""The integer kernel: exact sums scaled once, the paper's gradients, floats where it cannot."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lsqctl.quant import (
    LayerOverride,
    QuantConv2d,
    QuantLinear,
    QuantSpec,
    TensorSpec,
    calibrate,
    collect_stats,
    integer,
    integer_function,
    prepare,
    quantized_layers,
)
from lsqctl.quant.conformance import CHECKS, run_check
from lsqctl.quant.conformance.golden import Pointwise
from lsqctl.quant.conformance.matrix import Implementation
from lsqctl.quant.integer import Geometry, Limits, Operands, convolve
from lsqctl.quant.integer_function import Product, integer_product

ACTIVATIONS = TensorSpec(bits=4, signed=None)
CONVOLUTIONS = {
    "plain": {"padding": 1},
    "no bias, stride": {"padding": 1, "stride": 2, "bias": False},
    "groups": {"padding": (2, 1), "groups": 4},
    "depthwise": {"padding": 1, "groups": 8},
    "dilation, same": {"padding": "same", "dilation": 2},
    "one pixel": {"kernel_size": 1},
    "uneven same": {"kernel_size": (2, 4), "padding": "same"},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "circular": {"padding": (1, 2), "padding_mode": "circular"},
}


def layer_of(module, x, *, bits=4, per_channel=False):
    """Return ``module`` quantized and calibrated on ``x``, computing in integers."""
    weight_spec = TensorSpec(bits=bits, per_channel=per_channel, init="percentile")
    kind = QuantConv2d if isinstance(module, nn.Conv2d) else QuantLinear
    layer = kind.from_float(module, weight_spec, TensorSpec(bits=bits, signed=None))
    layer.input_quantizer.calibrate(x)
    layer.weight_quantizer.calibrate(layer.weight)
    layer.kernel = "integer"
    return layer


def convolution(options):
    return nn.Conv2d(8, 16, **({"kernel_size": 3} | options))


def expected(layer, x):
    """Return fl(fl(sum) * scale) + bias, the sum of codes in fp64."""
    codes = layer.input_quantizer.codes(x).double()
    weight_codes = layer.weight_quantizer.codes(layer.weight).double()
    scale = (layer.input_quantizer.step_size * layer.weight_quantizer.step_size).flatten()
    if isinstance(layer, QuantLinear):
        return F.linear(codes, weight_codes).float() * scale + layer.bias
    twin = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        padding=layer.padding,
        stride=layer.stride,
        dilation=layer.dilation,
        groups=layer.groups,
        padding_mode=layer.padding_mode,
        bias=False,
    )
    twin.weight = nn.Parameter(weight_codes)
    out = twin(codes).float() * scale.view(-1, 1, 1)
    return out if layer.bias is None else out + layer.bias.view(-1, 1, 1)


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # said once, of the float twin
@pytest.mark.parametrize("floats", [False, True], ids=["fast", "of floats"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_convolution_is_the_exact_sum_scaled_once(options, signed, bits, floats, monkeypatch):
    if floats:
        monkeypatch.setattr(integer, "_adds_exactly", lambda operands: False)
    x = torch.randn(3, 8, 9, 9) if signed else torch.rand(3, 8, 9, 9)
    layer = layer_of(convolution(options), x, bits=bits, per_channel=signed)
    assert torch.equal(layer(x), expected(layer, x))
    assert torch.equal(layer(x[0]), expected(layer, x)[0])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(5, 40), (2, 3, 40), (40,)], ids=str)
def test_a_linear_layer_is_the_exact_sum_scaled_once(shape, bits):
    x = torch.randn(shape)
    layer = layer_of(nn.Linear(40, 6), x, bits=bits)
    assert torch.equal(layer(x), expected(layer, x))


def test_sums_that_fp32_does_not_hold_are_exact_all_the_same():
    x = torch.cat([torch.ones(1, 999), torch.full((1, 1), 1 / 255)], dim=1)
    layer = layer_of(nn.Linear(1000, 2), x, bits=8)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([127.0, -128.0])[:, None].expand(2, 1000))
        layer.weight_quantizer.step_size.fill_(1.0)
        layer.input_quantizer.step_size.fill_(1 / 255)
    assert torch.equal(layer(x), expected(layer, x))
    assert 999 * 255 * 127 > 1 << 24


def gradients(layer, x, upstream):
    """Return the gradients of input, weight, bias and both steps."""
    x = x.clone().requires_grad_()
    learned = dict(layer.named_parameters())
    grads = torch.autograd.grad((layer(x) * upstream).sum(), [x, *learned.values()])
    return dict(zip(["input", *learned], grads, strict=True))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_gradients_of_a_convolution_are_those_of_the_float_layer(options, signed):
    x = torch.randn(3, 8, 9, 9) if signed else torch.rand(3, 8, 9, 9)
    layer = layer_of(convolution(options), x, per_channel=signed)
    x = 1.5 * x.contiguous(memory_format=torch.channels_last)  # some are clipped
    upstream = torch.randn_like(layer(x))
    found = gradients(layer, x, upstream)
    layer.kernel = "float"
    for name, grad in gradients(layer, x, upstream).items():
        torch.testing.assert_close(found[name], grad, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("shape", [(5, 40), (2, 3, 40)], ids=str)
def test_gradients_of_a_linear_layer_are_those_of_the_float_layer(shape):
    x = torch.randn(shape)
    layer = layer_of(nn.Linear(40, 6), x)
    upstream = torch.randn_like(layer(x))
    found = gradients(layer, 1.5 * x, upstream)
    layer.kernel = "float"
    for name, grad in gradients(layer, 1.5 * x, upstream).items():
        torch.testing.assert_close(found[name], grad, rtol=1e-5, atol=1e-5, msg=name)


def through_the_product(x, step, grid, scale):
    """Return ``x`` on the grid, as its product with 1."""
    one = torch.ones(1, 1)
    product = Product(grid.bounds, scale, (-128, 127), 1.0, None, torch.float32)
    out = integer_product(x.reshape(-1, 1), one, (step, torch.tensor(1.0)), None, product)
    return out.reshape(x.shape).to(x.dtype)


@pytest.mark.parametrize(
    "check", [c for c in CHECKS if isinstance(c.case, Pointwise)], ids=lambda check: check.key
)
def test_the_product_gives_the_answers_of_the_paper(check):
    verdict = run_check(check, Implementation("integers", "", through_the_product))
    assert (verdict.verdict, verdict.details) == ("ok", ())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("floats", [False, True], ids=["fast", "of floats"])
def test_under_autocast_the_exact_product_is_rounded_once(dtype, floats, monkeypatch):
    if floats:
        monkeypatch.setattr(integer, "_adds_exactly", lambda operands: False)
    x = torch.rand(2, 8, 5, 5)
    layer = layer_of(convolution({"padding": 1}), x, bits=8 if floats else 4)  # 8: large sums
    with torch.autocast("cpu", dtype):
        out = layer(x)
    assert out.dtype is dtype
    assert torch.equal(out, expected(layer, x).to(dtype))
    (out.float().sum()).backward()
    assert layer.weight.grad.dtype is torch.float32


def test_an_image_gets_one_output_whatever_its_batch_and_the_threads():
    x = torch.randn(7, 8, 9, 9)
    layer = layer_of(convolution({"padding": 1}), x)
    whole, before = layer(x), torch.get_num_threads()
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        assert torch.equal(layer(x[3:4]), whole[3:4])
    finally:
        torch.set_num_threads(before)


SATURATES = """
import sys, torch
from lsqctl.quant import integer
torch.manual_seed(0)
codes = torch.randint(200, 256, (2, 16, 6, 6), dtype=torch.uint8)
codes = codes.contiguous(memory_format=torch.channels_last)
weight = torch.randint(100, 128, (8, 16, 3, 3), dtype=torch.int8)
operands = integer.Operands(
    codes, weight, torch.ones(1), None, 0, integer.Limits(255, 128), torch.float32
)
place = integer.Geometry((1, 1), (1, 1), (1, 1), 1)
found = integer.convolve(operands, place)
small = integer.convolve(operands._replace(weight=weight // 2), place)
exact = torch.nn.functional.conv2d(codes.double(), weight.double(), padding=1)
half = torch.nn.functional.conv2d(codes.double(), (weight // 2).double(), padding=1)
print(integer.products_are_wide(), bool((found == exact).all()), bool((small == half).all()))
integer._adds_exactly = lambda operands: True
print(bool((integer.convolve(operands, place) == exact).all()))
"""


@pytest.mark.skipif(not integer.is_available(), reason="torch has no integer kernel here")
def test_where_products_are_clipped_in_pairs_the_same_sums_are_taken_of_floats():
    env = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-c", SATURATES]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    wide, *exact, without_gate = done.stdout.split()
    assert (wide, exact) == ("False", ["True", "True"])
    assert without_gate == "False"  # else there would be nothing to guard against


def test_only_what_has_no_integer_kernel_stays_float_and_says_why():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.ConvTranspose2d(4, 4, 1),
        nn.Flatten(2),
        nn.Conv1d(4, 4, 1),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.Linear(8, 8),
        nn.Linear(8, 8),
        nn.Linear(8, 2),
    )
    overrides = {
        "5": LayerOverride(weight_bits=32),
        "6": LayerOverride(act_bits=32),
        "7": LayerOverride(act_offset="learned"),
    }
    prepare(model, QuantSpec(kernel="integer", overrides=overrides))
    calibrate(model, torch.randn(8, 3, 2, 2))
    assert {name: layer.float_reason() for name, layer in quantized_layers(model).items()} == {
        "0": "",
        "1": "transposed convolutions have no integer kernel",
        "3": "convolutions of one dimension have no integer kernel",
        "5": "its weight has 32 bits",
        "6": "its input has 32 bits",
        "7": "its input has a learned offset",
        "8": "",
    }


def test_auto_is_float_outside_of_a_run(small_net):
    layers = quantized_layers(prepare(small_net, QuantSpec()))
    assert {layer.kernel for layer in layers.values()} == {"float"}


def test_a_kernel_is_one_of_three():
    with pytest.raises(ValueError, match="kernel must be one of auto, integer, float, got 'int8'"):
        QuantSpec(kernel="int8")


def test_what_no_kernel_takes_is_computed_in_floats_as_before(small_net, images):
    model = prepare(small_net, QuantSpec(kernel="integer"))
    calibrate(model, images)
    double = copy.deepcopy(model).double().eval()
    floats = copy.deepcopy(double)
    for layer in quantized_layers(floats).values():
        layer.kernel = "float"
    assert torch.equal(double(images.double()), floats(images.double()))


def test_an_exported_model_has_no_operator_of_ours(small_net, images):
    model = prepare(small_net, QuantSpec(kernel="integer"))
    calibrate(model, images)
    program = torch.export.export(model.eval(), (images,))
    assert "ops.lsqctl" not in program.graph_module.print_readable(print_output=False)


def test_a_program_of_torch_export_has_no_operator_of_ours_and_gives_what_floats_give():
    x = torch.randn(2, 8, 6, 6)
    layer = layer_of(convolution({"padding": 1}), x)
    program = torch.export.export(layer, (x,))
    graphs = [part.graph for part in program.graph_module.modules() if hasattr(part, "graph")]
    operators = {str(node.target) for graph in graphs for node in graph.nodes}
    assert any("conv2d" in name for name in operators)
    assert not [name for name in operators if name.startswith(("lsqctl", "onednn"))]
    layer.kernel = "float"
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("where", ["input", "weight"])
def test_nan_reaches_what_a_layer_returns_as_it_does_in_floats(where, per_channel):
    """Per-channel weights take another path to their codes than one step a tensor."""
    for module, shape in ((convolution({}), (2, 8, 5, 5)), (nn.Linear(6, 4), (3, 6))):
        x = torch.randn(shape)
        layer = layer_of(module, x, per_channel=per_channel)
        infinite = torch.where(x > 1, torch.inf, x)  # which the clip ends
        assert layer(infinite).isfinite().all()
        tensor = x if where == "input" else layer.weight.data
        tensor.flatten()[0] = torch.nan
        for kernel in ("integer", "float"):
            layer.kernel = kernel
            assert layer(x).sum().isnan(), kernel


def test_the_statistics_of_quantizers_see_what_enters_integer_layers(small_net, images):
    model = prepare(small_net, QuantSpec(kernel="integer"))
    calibrate(model, images)
    found = {reading.name for reading in collect_stats(model, images)}
    assert {name for name in found if name.endswith("input_quantizer")} == {
        f"{name}.input_quantizer" for name in quantized_layers(model)
    }


@pytest.mark.slow
def test_a_compiled_step_in_integers_has_the_codes_and_gradients_of_the_eager_one(
    small_net, images
):
    model = prepare(small_net, QuantSpec(kernel="integer"))
    calibrate(model, images)
    compiled = copy.deepcopy(model)
    out = torch.compile(compiled, dynamic=False)(images)
    torch.testing.assert_close(out, model(images), rtol=1e-5, atol=1e-5)
    out.square().sum().backward()
    model(images).square().sum().backward()
    for (name, ours), (_, eager) in zip(
        compiled.named_parameters(), model.named_parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, eager.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_a_compiled_layer_is_the_eager_one_to_the_bit():
    x = torch.rand(4, 8, 9, 9)
    for module in (convolution({"padding": 1}), nn.Linear(9, 4)):
        layer = layer_of(module, x)
        for bf16 in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                assert torch.equal(torch.compile(layer, dynamic=False)(x), layer(x))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["integer", "float"])
def test_a_compiled_step_differs_in_bf16_only_by_what_a_fused_loop_does_not_round(
    small_net, images, kernel
):
    """Inductor keeps what lies between fused operations in fp32, where eager rounds to bf16."""
    from torch._inductor import config as inductor  # a second, for those who compile

    model = prepare(small_net, QuantSpec(kernel=kernel))
    calibrate(model, images)
    with torch.autocast("cpu", torch.bfloat16):
        eager = copy.deepcopy(model)(images)
        with inductor.patch(emulate_precision_casts=True):
            compiled = torch.compile(copy.deepcopy(model), dynamic=False)(images)
    assert torch.equal(compiled, eager)


@pytest.mark.slow
def test_the_operators_keep_what_torch_demands_of_them():
    codes = torch.randint(0, 16, (2, 4, 5, 5), dtype=torch.uint8)
    codes = codes.contiguous(memory_format=torch.channels_last)
    weight, scale = torch.randint(-8, 8, (6, 4, 3, 3), dtype=torch.int8), torch.ones(1)
    common = (None, 0, [15, 8], torch.float32)
    place = ([1, 1], [1, 1], [1, 1], 1)
    torch.library.opcheck(integer_function._convolve_op, (codes, weight, scale, *common, *place))
    matrix = torch.randint(-8, 8, (6, 5), dtype=torch.int8)
    torch.library.opcheck(integer_function._multiply_op, (codes, matrix, scale, *common))


@pytest.mark.skipif(not integer.is_available(), reason="torch has no integer kernel here")
def test_a_sum_that_32_bits_do_not_hold_is_counted_all_the_same():
    x, found = torch.ones(3, 70_000), {}
    for kernel in ("float", "integer"):
        net = nn.Sequential(nn.Linear(70_000, 2, bias=False))
        nn.init.ones_(net[0].weight)
        spec = QuantSpec(weight_bits=8, act_bits=8, init="percentile", percentile=100.0)
        prepare(net, replace(spec, kernel=kernel), x)
        calibrate(net, [x])
        found[kernel] = net.eval()(x).detach()
    torch.testing.assert_close(found["integer"], found["float"], rtol=1e-4, atol=0)
    assert found["integer"].min() > 60_000


class Strides(TorchDispatchMode):
    """The strides that integer kernels of convolutions are asked for."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.onednn.qconv_pointwise.default:
            self.seen.add(tuple(args[7]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("channels", [8, 24, 104])
@pytest.mark.parametrize(
    ("stride", "padding", "zero_point"), [((2, 2), 0, 0), ((2, 2), 0, 5), ((2, 3), 1, 5)]
)
def test_a_kernel_of_one_pixel_with_a_stride_adds_right_on_several_threads(
    channels, stride, padding, zero_point
):
    """The way of oneDNN is a race between threads: it is not asked to stride."""
    generator = torch.Generator().manual_seed(channels)
    weight = torch.randint(-8, 8, (256, channels, 1, 1), dtype=torch.int8, generator=generator)
    limits, geometry = Limits(15, 8), Geometry(stride, (padding, padding), (1, 1), 1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for n_images in (3, 8, 8):
            shape = (n_images, channels, 12, 12)
            codes = torch.randint(0, 16, shape, dtype=torch.uint8, generator=generator)
            codes = codes.contiguous(memory_format=torch.channels_last)
            place = torch.ones(1), None, zero_point, limits, torch.float32
            with Strides() as strides:
                found = convolve(Operands(codes, weight, *place), geometry)
            assert strides.seen == {(1, 1)}
            exact = F.conv2d(codes.double() - zero_point, weight.double(), None, stride, padding)
            assert torch.equal(found.double(), exact)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_in_half_precision_is_multiplied_as_codes_too(small_net, images, dtype):
    model = prepare(small_net, QuantSpec(4, 4, kernel="integer"), images)
    calibrate(model, images)
    model.to(dtype)
    out = model(images.to(dtype))
    out.float().sum().backward()
    for layer in quantized_layers(model).values():
        layer.kernel = "float"
    torch.testing.assert_close(out, model(images.to(dtype)), rtol=0.05, atol=0.05)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
