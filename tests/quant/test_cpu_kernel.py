"""The quantizer in blocks is the plain one: the same value and mask, and the step's gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsqctl.quant import TensorSpec, cpu_kernel, functional, lsq_fake_quantize

BOUNDS = (-8, 7)


def both(x, step, grad, bounds=BOUNDS):
    """Return (value, gradient of x, gradient of the step) of the blocks, and of the plain form."""
    assert cpu_kernel.is_supported(x, step)
    found = []
    for form in (None, functional._gradients):
        a, s = x.detach().requires_grad_(), step.detach().requires_grad_()
        with pytest.MonkeyPatch.context() as patch:
            if form:
                patch.setattr(cpu_kernel, "is_supported", lambda *_: False)
            out = lsq_fake_quantize(a, s, *bounds)
            out.backward(grad)
        found.append((out.detach(), a.grad, s.grad))
    return found


LAYOUTS = {
    "plain": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 3),
    "with gaps": lambda x: x[:, ::2],
    "expanded": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "an offset": lambda x: x[1:],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_value_and_gradients_are_those_of_the_plain_form(layout, dtype, monkeypatch):
    monkeypatch.setattr(cpu_kernel, "BLOCK_SIZE", 100)  # several blocks, the last one shorter
    draw = torch.Generator().manual_seed(0)
    x = layout(torch.randn(5, 4, 6, 7, generator=draw).to(dtype))
    grad = torch.randn(x.shape, generator=draw).to(dtype)
    for step in (torch.tensor(0.11), torch.full((1, 1, 1, 1), 0.11)):
        (out, to_x, to_step), (plain_out, plain_to_x, plain_to_step) = both(x, step, grad)
        assert torch.equal(out, plain_out)
        assert out.dtype is to_x.dtype is dtype
        assert torch.equal(to_x, plain_to_x)
        assert to_step.shape == step.shape
        torch.testing.assert_close(to_step, plain_to_step, rtol=2e-6, atol=2e-6)


def test_a_gradient_of_another_layout_is_laid_out_like_the_input():
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    found, plain = both(x, torch.tensor(0.1), torch.randn(2, 3, 4, 5))
    assert torch.equal(found[1], plain[1])
    torch.testing.assert_close(found[2], plain[2])


specs = st.builds(
    TensorSpec, bits=st.integers(2, 8), signed=st.booleans(), narrow_range=st.booleans()
)


@settings(max_examples=200)
@given(specs, st.floats(2.0**-26, 2.0**26, width=32))
def test_the_inner_range_is_where_the_rounded_quotient_lies_inside(spec, step):
    bounds = (spec.quant_min, spec.quant_max)
    low, high = cpu_kernel.open_interval(step, bounds)
    step = torch.tensor(step)
    for bound, edge in ((bounds[0], low), (bounds[1], high)):
        x = torch.tensor(float(edge))
        assert x.item() == edge, "the edge is an fp32 number"
        around = [x]
        for towards in (-torch.inf, torch.inf):
            one = x
            for _ in range(4):
                one = torch.nextafter(one, torch.tensor(towards))
                around.append(one)
        near = torch.cat([torch.stack(around), bound * step[None]])
        quotient = near / step
        by_code = (quotient > bounds[0]) & (quotient < bounds[1])
        normal = near.abs() / step > 1e-37  # below, a quotient may underflow to a bound of 0
        assert torch.equal(by_code[normal], ((near > low) & (near < high))[normal])


def test_a_frozen_operand_costs_no_gradient():
    saved = (torch.randn(9), torch.tensor(0.2), None)
    grad = torch.randn(9)
    assert cpu_kernel.gradients(grad, saved, BOUNDS, (False, True))[0] is None
    assert cpu_kernel.gradients(grad, saved, BOUNDS, (True, False))[1] is None


def test_only_what_a_processor_holds_as_it_is_comes_in_blocks():
    x, step = torch.randn(4, 2), torch.tensor(0.1)
    assert cpu_kernel.is_supported(x, step)
    assert not cpu_kernel.is_supported(x.double(), step)
    assert not cpu_kernel.is_supported(x.to("meta"), step)
    assert not cpu_kernel.is_supported(x, torch.full((4, 1), 0.1))
    assert not cpu_kernel.is_supported(torch.empty(0), step)


def test_a_step_that_has_turned_negative_still_has_the_gradients_of_its_quotients():
    x, grad = torch.randn(50), torch.randn(50)
    found, plain = both(x, torch.tensor(-0.1), grad)
    assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))
