"""LSQ+: the grid is moved by an offset that learns, where values are negative, but not much."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lsqctl.quant import (
    LsqQuantizer,
    QuantConv2d,
    QuantSpec,
    TensorSpec,
    calibrate,
    clamp_step_sizes,
    initial_step_and_offset,
    lsq_plus_fake_quantize,
    model_cost,
    param_groups,
    prepare,
    quantizers,
)

SKEWED = TensorSpec(bits=4, signed=None, offset="learned")


def swish(n=4096, seed=0):
    return F.silu(2 * torch.randn(n, generator=torch.Generator().manual_seed(seed)))


def scalar(value):
    return torch.tensor(value, requires_grad=True)


@given(
    seed=st.integers(0, 99),
    step=st.floats(0.05, 2),
    offset=st.floats(-2, 2),
    bounds=st.sampled_from([(0, 3), (0, 15), (-8, 7), (-2, 1)]),
)
@settings(max_examples=25)
def test_value_and_gradients_are_those_of_the_papers_equation(seed, step, offset, bounds):
    torch.manual_seed(seed)
    x = (3 * torch.randn(64)).requires_grad_()
    s, beta = scalar(step), scalar(offset)
    out = lsq_plus_fake_quantize(x, s, beta, bounds, 0.5)
    weights = torch.randn(64)
    (out * weights).sum().backward()
    v = (x.detach() - beta.detach()) / s.detach()
    inside = (v > bounds[0]) & (v < bounds[1])
    code = v.clamp(*bounds).round()
    torch.testing.assert_close(out.detach(), code * s.detach() + beta.detach())
    assert torch.equal(x.grad, torch.where(inside, weights, 0.0))
    to_step = torch.where(inside, code - v, code)
    torch.testing.assert_close(s.grad, 0.5 * (to_step * weights).sum(), rtol=1e-4, atol=1e-3)
    to_offset = torch.where(inside, 0.0, weights).sum()
    torch.testing.assert_close(beta.grad, 0.5 * to_offset, rtol=1e-4, atol=1e-4)


def test_low_precision_values_are_coded_in_fp32_and_returned_in_their_dtype():
    x = (4 * torch.randn(4096)).bfloat16()
    s, beta = torch.tensor(0.0371), torch.tensor(-0.2123)
    out = lsq_plus_fake_quantize(x, s, beta, (0, 255))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, lsq_plus_fake_quantize(x.float(), s, beta, (0, 255)).bfloat16())


@pytest.mark.parametrize("bounds", [(0, 15), (-8, 7)])
def test_the_first_grid_spans_the_least_to_the_largest_value(bounds):
    x = swish()
    step, offset = initial_step_and_offset(x, *bounds, init="paper")
    ends = torch.stack([bounds[0] * step + offset, bounds[1] * step + offset])
    torch.testing.assert_close(ends, torch.stack(x.aminmax()), rtol=1e-5, atol=1e-5)


def test_percentile_cuts_both_ends_and_least_error_is_least():
    x = torch.cat([swish(), torch.tensor([40.0])])
    found = {i: initial_step_and_offset(x, 0, 15, init=i) for i in ("paper", "percentile", "mse")}
    error = {
        i: float((lsq_plus_fake_quantize(x, s, b, (0, 15)) - x).square().mean())
        for i, (s, b) in found.items()
    }
    assert found["percentile"][0] < found["paper"][0] / 3  # the outlier is cut off
    assert error["mse"] < min(error["paper"], error["percentile"])


@pytest.mark.parametrize("x", [torch.zeros(4), torch.full((4,), -3.0), torch.tensor([1.0])])
@pytest.mark.parametrize("init", ["paper", "mse", "percentile"])
def test_values_that_are_all_equal_get_a_usable_grid_that_holds_them(x, init):
    step, offset = initial_step_and_offset(x, -8, 7, init=init)
    assert step > 0
    torch.testing.assert_close(lsq_plus_fake_quantize(x, step, offset, (-8, 7)), x)


def test_a_skewed_tensor_is_quantized_with_less_error_than_without_an_offset():
    x, error = swish(), {}
    for offset in ("none", "learned"):
        quantizer = LsqQuantizer(
            TensorSpec(4, signed=None, offset=offset, init="mse"), batched=True
        )
        quantizer.calibrate(x)
        error[offset] = float((quantizer(x) - x).detach().square().mean())
    assert error["learned"] < error["none"] / 2


def test_an_open_sign_that_turns_out_unsigned_needs_no_offset():
    quantizer = LsqQuantizer(SKEWED, batched=True)
    plain = LsqQuantizer(TensorSpec(bits=4, signed=None), batched=True)
    for one in (quantizer, plain):
        one.calibrate(swish().relu())
    assert quantizer.active_offset is None
    assert torch.equal(quantizer(swish()), plain(swish()))
    assert len(quantizer.learned_parameters) == 1
    declared = LsqQuantizer(TensorSpec(bits=4, signed=False, offset="learned"), batched=True)
    declared.calibrate(swish().relu())
    assert declared.active_offset is not None


def test_codes_times_step_plus_offset_are_the_output():
    quantizer = LsqQuantizer(SKEWED, batched=True)
    quantizer.calibrate(swish())
    x = swish(seed=1)
    rebuilt = quantizer.codes(x) * quantizer.step_size + quantizer.active_offset
    torch.testing.assert_close(quantizer(x), rebuilt, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("padding", [1, "same", (2, 1)])
def test_what_is_padded_is_the_quantized_zero(padding):
    conv = nn.Conv2d(2, 3, 3, padding=padding, bias=False)
    x = swish(2 * 2 * 36).reshape(2, 2, 6, 6) - 0.3
    twin = QuantConv2d.from_float(conv, TensorSpec(bits=32), SKEWED)
    twin.input_quantizer.calibrate(x)
    zero = twin.input_quantizer(torch.zeros(()))
    assert zero != 0  # zero is not on this grid
    sides = twin._reversed_padding_repeated_twice
    padded = F.pad(twin.input_quantizer(x) - zero, sides) + zero
    torch.testing.assert_close(twin(x), F.conv2d(padded, conv.weight))


def test_padding_is_not_counted_as_a_feature():
    conv = nn.Conv2d(2, 3, 3, padding=1)
    twin = QuantConv2d.from_float(conv, TensorSpec(bits=32), SKEWED)
    x = swish(72).reshape(1, 2, 6, 6)
    twin.input_quantizer.calibrate(x)
    counted = []
    twin.input_quantizer.register_forward_pre_hook(lambda _, inputs: counted.append(inputs[1]))
    twin(x)
    assert counted == [72]


def test_an_offset_learns_with_the_steps_and_is_never_clamped(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(256, 2))
    prepare(net, QuantSpec(act_offset="learned"))
    calibrate(net, images)
    groups = {group["name"]: group["names"] for group in param_groups(net, lr=1, weight_decay=1)}
    assert sum(name.endswith(".offset") for name in groups["step_sizes"]) == 2
    assert not any("quantizer" in name for name in groups["weights"] + groups["no_decay"])
    optimizer = torch.optim.SGD(param_groups(net, lr=0.1, weight_decay=0.0))
    handle = clamp_step_sizes(optimizer, net)
    offsets = [
        one.active_offset for one in quantizers(net).values() if one.active_offset is not None
    ]
    before = [one.detach().clone() for one in offsets]
    assert all(one != 0 for one in before)
    net(2 * images).square().sum().backward()
    optimizer.step()
    assert all(a != b for a, b in zip(before, offsets, strict=True))
    with torch.no_grad():
        offsets[0].fill_(-5.0)
    optimizer.step()
    assert offsets[0] < -1
    assert not any(".offset" in name for name in handle.clamped)


def test_checkpoints_carry_offsets_and_older_ones_without_them_load(images):
    def net(offset):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
        return prepare(model, QuantSpec(act_offset=offset))

    source = net("learned")
    calibrate(source, images)
    state = source.state_dict()
    assert state["0.input_quantizer.offset"] != 0
    target = net("learned")
    target.load_state_dict(state)
    assert torch.equal(source(images), target(images))
    assert not any("offset" in key for key in net("none").state_dict())


def test_an_offset_costs_four_bytes_where_it_is_used(images):
    sizes = {}
    for offset in ("none", "learned"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        prepare(net, QuantSpec(act_offset=offset))
        calibrate(net, images)
        cost = model_cost(net, (3, 8, 8))
        sizes[offset] = cost.size_bytes
    assert sizes["learned"] == sizes["none"] + 4  # the images are signed, what ReLU leaves is not
    assert cost.params == 4 * 27 + 4 + 288 + 2


def test_a_layer_with_an_offset_compiles_into_one_graph_with_the_same_gradients():
    conv = QuantConv2d.from_float(nn.Conv2d(2, 3, 3, padding=1), TensorSpec(4), SKEWED)
    x = swish(72).reshape(1, 2, 6, 6)
    conv.input_quantizer.calibrate(x)
    conv.weight_quantizer.calibrate(conv.weight)
    conv(x).sum().backward()
    expected = [p.grad.clone() for p in conv.parameters()]
    conv.zero_grad()
    torch.compile(conv, backend="aot_eager", fullgraph=True)(x).sum().backward()
    for parameter, grad in zip(conv.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
