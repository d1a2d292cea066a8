"""The quantizer is the paper's equations 1 to 3, held against an independent NumPy reading."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsqctl.quant import TensorSpec, grad_scale_factor, lsq_codes, lsq_fake_quantize

specs = st.builds(
    TensorSpec,
    bits=st.integers(2, 8),
    signed=st.booleans(),
    narrow_range=st.booleans(),
)
step_sizes = st.floats(0.01, 2.0)
seeds = st.integers(0, 2**16)
quickly = settings(deadline=None, max_examples=40)


def paper(x, step, quant_min, quant_max):
    """Return (value, gradient to x, terms of the gradient to the step) by equations 1 to 3."""
    value, to_x, to_step = (np.zeros_like(x) for _ in range(3))
    for index, ratio in np.ndenumerate(x / step):
        if ratio <= quant_min:
            code, to_step[index] = quant_min, quant_min
        elif ratio >= quant_max:
            code, to_step[index] = quant_max, quant_max
        else:
            code = round(float(ratio))  # Python rounds half to even
            to_step[index] = -ratio + code
            to_x[index] = 1.0
        value[index] = code * np.broadcast_to(step, x.shape)[index]
    return value, to_x, to_step


def run(x, step, quant_min, quant_max, *, scale=1.0, upstream=None):
    x = torch.as_tensor(x, dtype=torch.float64).requires_grad_()
    step = torch.as_tensor(step, dtype=torch.float64).requires_grad_()
    out = lsq_fake_quantize(x, step, quant_min, quant_max, scale)
    out.backward(torch.ones_like(out) if upstream is None else torch.as_tensor(upstream))
    return out.detach().numpy(), x.grad.numpy(), step.grad.numpy()


@quickly
@given(specs, step_sizes, seeds)
def test_value_and_gradients_are_equations_1_to_3(spec, step, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=step * spec.quant_max, size=(5, 7))
    x.flat[:3] = np.array([spec.quant_min, spec.quant_max, 0.5]) * step
    upstream = rng.normal(size=x.shape)
    value, to_x, to_step = paper(x, np.float64(step), spec.quant_min, spec.quant_max)
    got = run(x, step, spec.quant_min, spec.quant_max, scale=0.25, upstream=upstream)
    np.testing.assert_allclose(got[0], value, rtol=1e-14)
    np.testing.assert_array_equal(got[1], to_x * upstream)
    np.testing.assert_allclose(got[2], 0.25 * (to_step * upstream).sum(), rtol=1e-10, atol=1e-10)


@quickly
@given(specs, seeds)
def test_a_step_per_channel_gets_the_gradient_of_its_channel_alone(spec, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, 3, 2, 2))
    step = rng.uniform(0.05, 0.5, size=(4, 1, 1, 1))
    value, to_x, to_step = paper(x, step, spec.quant_min, spec.quant_max)
    got = run(x, step, spec.quant_min, spec.quant_max)
    np.testing.assert_allclose(got[0], value, rtol=1e-14)
    np.testing.assert_array_equal(got[1], to_x)
    np.testing.assert_allclose(got[2], to_step.sum((1, 2, 3), keepdims=True), atol=1e-10)


@pytest.mark.parametrize(
    ("ratio", "code", "to_x", "to_step"),
    [
        (-3.0, -2, 0, -2),
        (-2.0, -2, 0, -2),  # on the bound: equation 3, where clamp would pass the gradient
        (-1.75, -2, 1, -0.25),
        (-0.5, 0, 1, 0.5),
        (0.25, 0, 1, -0.25),
        (0.5, 0, 1, -0.5),
        (0.75, 1, 1, 0.25),
        (1.0, 1, 0, 1),
        (1.2, 1, 0, 1),  # rounding first would give -0.2 and pass the gradient to x
        (7.0, 1, 0, 1),
    ],
)
def test_golden_gradients_of_two_bit_weights(ratio, code, to_x, to_step):
    value, got_x, got_step = run([ratio], 1.0, -2, 1)
    assert (value.item(), got_x.item(), got_step.item()) == (code, to_x, to_step)


def test_codes_round_half_to_even():
    x = torch.arange(-3.5, 4.0) * 0.25
    assert lsq_codes(x, torch.tensor(0.25), -8, 7).tolist() == [-4, -2, -2, 0, 0, 2, 2, 4]


@quickly
@given(specs, step_sizes, seeds)
def test_codes_times_step_are_the_value_bit_for_bit(spec, step, seed):
    x = torch.randn(64, generator=torch.Generator().manual_seed(seed))
    s = torch.tensor(step, dtype=torch.float32)
    codes = lsq_codes(x, s, spec.quant_min, spec.quant_max)
    assert codes.dtype is torch.int32
    assert codes.min() >= spec.quant_min
    assert codes.max() <= spec.quant_max
    assert torch.equal(codes * s, lsq_fake_quantize(x, s, spec.quant_min, spec.quant_max))


@quickly
@given(specs, step_sizes, seeds)
def test_quantizing_twice_is_quantizing_once(spec, step, seed):
    x = torch.randn(64, generator=torch.Generator().manual_seed(seed))
    s = torch.tensor(step, dtype=torch.float32)
    once = lsq_fake_quantize(x, s, spec.quant_min, spec.quant_max)
    assert torch.equal(lsq_fake_quantize(once, s, spec.quant_min, spec.quant_max), once)


@quickly
@given(specs, step_sizes, seeds, st.integers(-6, 6))
def test_scaling_values_and_step_scales_the_result(spec, step, seed, exponent):
    factor = 2.0**exponent  # exact in floating point
    x = torch.randn(64, generator=torch.Generator().manual_seed(seed))
    s = torch.tensor(step, dtype=torch.float32)
    plain = lsq_fake_quantize(x, s, spec.quant_min, spec.quant_max)
    scaled = lsq_fake_quantize(x * factor, s * factor, spec.quant_min, spec.quant_max)
    assert torch.equal(scaled, plain * factor)


@quickly
@given(seeds, st.floats(1e-6, 1.0))
def test_grad_scale_leaves_the_value_as_it_is_to_the_last_bit(seed, scale):
    x = torch.randn(256, generator=torch.Generator().manual_seed(seed))
    s = torch.rand((), generator=torch.Generator().manual_seed(seed)) + 0.01
    plain, scaled = (lsq_fake_quantize(x, s, -8, 7, g) for g in (1.0, scale))
    assert torch.equal(plain, scaled)


def test_zero_stays_zero_so_that_zero_padding_is_exact():
    for spec in (TensorSpec(bits=2), TensorSpec(bits=4, signed=False), TensorSpec(bits=8)):
        out = lsq_fake_quantize(torch.zeros(3), torch.tensor(0.3), spec.quant_min, spec.quant_max)
        assert torch.equal(out, torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_values_are_coded_in_fp32_and_returned_in_their_dtype(dtype):
    x = torch.randn(20_000).to(dtype).requires_grad_()
    s = torch.tensor(0.0173, requires_grad=True)
    out = lsq_fake_quantize(x, s, -128, 127)
    assert out.dtype is dtype
    in_fp32 = lsq_fake_quantize(x.float(), s, -128, 127)
    assert torch.equal(out, in_fp32.to(dtype))
    assert torch.equal(lsq_codes(x, s, -128, 127), lsq_codes(x.float(), s, -128, 127))
    out.float().sum().backward()
    assert (x.grad.dtype, s.grad.dtype) == (dtype, torch.float32)


def test_bf16_autocast_flips_no_code():
    x, s = torch.randn(20_000), torch.tensor(0.0173)
    with torch.autocast("cpu", torch.bfloat16):
        out, codes = lsq_fake_quantize(x, s, -128, 127), lsq_codes(x, s, -128, 127)
    assert torch.equal(codes, lsq_codes(x, s, -128, 127))
    assert torch.equal(out, lsq_fake_quantize(x, s, -128, 127))
    naive = (x.bfloat16() / s.bfloat16()).clamp(-128, 127).round()
    assert (naive != codes).float().mean() > 0.01  # what fp32 saves us from


def test_float64_stays_float64():
    x = torch.randn(100, dtype=torch.float64)
    out = lsq_fake_quantize(x, torch.tensor(0.1, dtype=torch.float64), -8, 7)
    assert out.dtype is torch.float64
    codes = (x / torch.tensor(0.1, dtype=torch.float64)).clamp(-8, 7).round()
    assert torch.equal(out, codes * torch.tensor(0.1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("x", "step", "bounds", "message"),
    [
        (torch.ones(2, dtype=torch.int64), torch.tensor(1.0), (-8, 7), "floating point"),
        (torch.ones(2), torch.tensor(1), (-8, 7), "floating point"),
        (torch.ones(2, 3), torch.ones(2), (-8, 7), "does not broadcast"),
        (torch.ones(2), torch.ones(1, 2), (-8, 7), "does not broadcast"),
        (torch.ones(1, 3), torch.ones(2, 1), (-8, 7), "does not broadcast"),
        (torch.ones(2), torch.tensor(1.0), (1, 7), "must hold 0"),
        (torch.ones(2), torch.tensor(1.0), (-8, 0), "must hold 0"),
    ],
)
def test_what_does_not_fit_is_a_value_error(x, step, bounds, message):
    with pytest.raises(ValueError, match=message):
        lsq_fake_quantize(x, step, *bounds)


def test_frozen_operands_get_no_gradient():
    x, s = torch.randn(9), torch.tensor(0.2, requires_grad=True)
    lsq_fake_quantize(x, s, -8, 7).sum().backward()
    assert s.grad is not None
    x = torch.randn(9, requires_grad=True)
    lsq_fake_quantize(x, s.detach(), -8, 7).sum().backward()
    assert x.grad is not None


def test_a_nan_is_not_hidden():
    s = torch.tensor(0.5, requires_grad=True)
    out = lsq_fake_quantize(torch.tensor([math.nan, 1.0]), s, -8, 7)
    assert out[0].isnan()
    out.sum().backward()
    assert s.grad.isnan()


def test_infinite_values_lie_on_the_bounds():
    s = torch.tensor(0.5, requires_grad=True)
    out = lsq_fake_quantize(torch.tensor([math.inf, -math.inf]), s, -8, 7)
    assert out.tolist() == [3.5, -4.0]
    out.sum().backward()
    assert s.grad.item() == -1


def test_compiles_into_one_graph_with_the_same_gradients():
    x, s = torch.randn(6, 5), torch.full((6, 1), 0.3)
    compiled = torch.compile(lsq_fake_quantize, fullgraph=True, backend="aot_eager")
    results = []
    for function in (lsq_fake_quantize, compiled):
        a, b = x.clone().requires_grad_(), s.clone().requires_grad_()
        out = function(a, b, -2, 1, 0.5)
        out.square().sum().backward()
        results.append((out.detach(), a.grad, b.grad))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_grad_scale_factor_is_one_over_the_root_of_count_times_highest_code():
    assert grad_scale_factor(100, 7) == 1 / math.sqrt(700)
