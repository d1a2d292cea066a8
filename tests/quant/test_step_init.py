"""First step sizes: positive, of the right shape, and each rule what it says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsqctl.quant import MIN_STEP_SIZE, TensorSpec, initial_step_size, lsq_codes, lsq_fake_quantize
from lsqctl.quant.step_init import percentile_rank, subsample

RULES = ("paper", "mse", "lsq_plus", "percentile")
rules = st.sampled_from(RULES)
bits = st.integers(2, 8)


def error(x, step, spec):
    out = lsq_fake_quantize(x, step, spec.quant_min, spec.quant_max)
    return (out - x).square().mean().item()


def decibels(x, step, spec):
    return 10 * math.log10(x.square().mean().item() / error(x, step, spec))


def test_the_papers_rule_is_twice_the_mean_magnitude_over_the_root_of_the_highest_code():
    step = initial_step_size(torch.tensor([-1.0, 3.0]), -8, 7)
    assert step.item() == pytest.approx(2 * 2 / math.sqrt(7))


def test_the_papers_first_step_wastes_most_codes_at_8_bits_and_mse_does_not():
    x, spec = torch.randn(64 * 64 * 9), TensorSpec(bits=8)
    paper, mse = (initial_step_size(x, -128, 127, init=rule) for rule in ("paper", "mse"))
    assert len(lsq_codes(x, paper, -128, 127).unique()) == pytest.approx(66, abs=8)
    assert decibels(x, paper, spec) == pytest.approx(27.8, abs=0.3)
    assert decibels(x, mse, spec) == pytest.approx(40.6, abs=0.3)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("b", [2, 3, 4, 8])
def test_mse_is_no_worse_than_a_fine_search_of_its_own(b, signed):
    spec = TensorSpec(bits=b, signed=signed)
    x = torch.randn(3000) if signed else torch.randn(3000).relu()
    step = initial_step_size(x, spec.quant_min, spec.quant_max, init="mse")
    peak = x.abs().max() / spec.quant_max
    best = min(error(x, peak * k / 400, spec) for k in range(8, 401))
    assert error(x, step, spec) <= best * 1.01


def test_mse_survives_an_outlier():
    x, spec = torch.randn(20_000), TensorSpec(bits=4)
    x[0] = 30
    step = initial_step_size(x, -8, 7, init="mse")
    assert error(x, step, spec) <= min(error(x, torch.tensor(k / 50), spec) for k in range(5, 250))


def test_mse_on_very_many_values_is_nearly_that_of_a_sample():
    x = torch.randn(3, 1 << 20)
    whole, part = (initial_step_size(t, -8, 7, init="mse").item() for t in (x, x[:1]))
    assert whole == pytest.approx(part, rel=0.02)


def test_lsq_plus_reaches_three_deviations_with_weights_and_is_mse_with_activations():
    x = torch.randn(5000) + 0.5
    sigma, mu = torch.std_mean(x, correction=0)
    expected = max(abs(mu - 3 * sigma), abs(mu + 3 * sigma)) / 8
    torch.testing.assert_close(initial_step_size(x, -8, 7, init="lsq_plus"), expected)
    narrow = initial_step_size(x, -7, 7, init="lsq_plus")
    torch.testing.assert_close(narrow, expected)
    mse = initial_step_size(x.relu(), 0, 15, init="mse")
    assert initial_step_size(x.relu(), 0, 15, init="lsq_plus") == mse
    signed = initial_step_size(x, -8, 7, init="lsq_plus", activation=True)
    assert signed == initial_step_size(x, -8, 7, init="mse")


def test_percentile_gives_that_value_the_highest_code():
    x = torch.arange(1.0, 1001.0)[torch.randperm(1000)]
    step = initial_step_size(x, -128, 127, init="percentile", percentile=99.0)
    assert step.item() == pytest.approx(990 / 127)
    assert initial_step_size(x, 0, 255, init="percentile", percentile=100.0) * 255 == 1000
    assert initial_step_size(x, 0, 255, init="percentile", percentile=99.9) * 255 == 999


def test_a_percentile_is_the_decimal_number_that_was_written():
    """In binary 99.9 / 100 * 1000 is above 999, so that the largest value was taken."""
    assert [percentile_rank(99.9, count) for count in (1000, 2000, 5000, 10_000)] == [
        *(999, 1998, 4995, 9990)
    ]
    assert (percentile_rank(0.0, 5), percentile_rank(50, 5), percentile_rank(1e-7, 5)) == (1, 3, 1)


@settings(deadline=None, max_examples=20)
@given(rules, bits, st.booleans(), st.integers(-12, 12), st.integers(0, 999))
def test_a_first_step_is_positive_finite_and_scales_with_the_values(rule, b, signed, power, seed):
    spec = TensorSpec(bits=b, signed=signed)
    x = torch.randn(200, generator=torch.Generator().manual_seed(seed))
    x = x if signed else x.relu()
    step, scaled = (
        initial_step_size(t, spec.quant_min, spec.quant_max, init=rule) for t in (x, x * 2.0**power)
    )
    assert 0 < step < math.inf
    torch.testing.assert_close(scaled, step * 2.0**power)


@pytest.mark.parametrize("rule", RULES)
def test_a_step_per_channel_is_the_step_of_that_channel_alone(rule):
    x = torch.randn(4, 3, 2, 2) * torch.tensor([0.1, 1, 10, 100]).reshape(4, 1, 1, 1)
    steps = initial_step_size(x, -8, 7, init=rule, step_shape=(4, 1, 1, 1))
    assert steps.shape == (4, 1, 1, 1)
    for channel in range(4):
        alone = initial_step_size(x[channel], -8, 7, init=rule)
        torch.testing.assert_close(steps[channel].squeeze(), alone)
    moved = initial_step_size(x.movedim(0, 1), -8, 7, init=rule, step_shape=(1, 4, 1, 1))
    torch.testing.assert_close(moved.flatten(), steps.flatten())


@pytest.mark.parametrize("rule", RULES)
def test_values_that_are_all_zero_get_a_usable_step(rule):
    assert initial_step_size(torch.zeros(50), -8, 7, init=rule) == pytest.approx(1 / 7)
    x = torch.stack([torch.zeros(50), torch.ones(50)])
    steps = initial_step_size(x, 0, 15, init=rule, step_shape=(2, 1))
    assert (steps > 0).all()
    mostly = torch.cat([torch.zeros(5000), torch.ones(1)])
    assert initial_step_size(mostly, 0, 15, init=rule) > 0


@pytest.mark.parametrize("rule", RULES)
def test_no_first_step_is_below_the_floor(rule):
    assert initial_step_size(torch.full((9,), 1e-12), 0, 255, init=rule) == MIN_STEP_SIZE


def test_low_precision_values_give_an_fp32_step():
    x = torch.randn(1000).half() * 100
    assert initial_step_size(x, -8, 7).dtype is torch.float32
    torch.testing.assert_close(initial_step_size(x, -8, 7), initial_step_size(x.float(), -8, 7))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        initial_step_size(torch.tensor([1.0, bad]), -8, 7)


@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        (torch.ones(0), {}, "no values"),
        (torch.ones(3), {"init": "best"}, "init must be"),
        (torch.ones(3), {"step_shape": (4,)}, "does not broadcast"),
        (torch.ones(3), {"step_shape": (1, 3)}, "does not broadcast"),
    ],
)
def test_what_does_not_fit_is_a_value_error(x, arguments, message):
    with pytest.raises(ValueError, match=message):
        initial_step_size(x, -8, 7, **arguments)


@pytest.mark.parametrize(("images", "pixels", "sample"), [(64, 32, 256), (50, 30, 250), (9, 7, 8)])
def test_a_sample_of_many_images_does_not_keep_to_one_pixel(images, pixels, sample):
    """A stride that shares a factor with an image's width would see few of its columns."""
    columns = torch.arange(pixels).repeat(images)[None]  # (1, images * pixels): where each lies
    part = subsample(columns, sample)
    assert part.shape[1] <= sample
    assert len(part.unique()) == pixels
