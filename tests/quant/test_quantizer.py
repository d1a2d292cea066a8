"""The quantizer: one Parameter for life, a sign found from data, flags in every checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from lsqctl.quant import LsqQuantizer, TensorSpec, grad_scale_factor

OPEN = TensorSpec(bits=4, signed=None)


def calibrated(spec=OPEN, x=None, **arguments):
    quantizer = LsqQuantizer(spec, **arguments)
    quantizer.calibrate(torch.randn(100) if x is None else x)
    return quantizer


def test_step_size_is_the_same_parameter_before_and_after_calibration():
    quantizer = LsqQuantizer(TensorSpec(bits=4, per_channel=True), step_shape=(3, 1))
    before, address = quantizer.step_size, quantizer.step_size.data_ptr()
    quantizer.calibrate(torch.randn(3, 8))
    assert quantizer.step_size is before
    assert quantizer.step_size.data_ptr() == address
    assert quantizer.step_size.unique().numel() == 3


def test_forward_before_calibration_says_to_calibrate():
    with pytest.raises(RuntimeError, match="call calibrate"):
        LsqQuantizer(OPEN)(torch.ones(2))
    with pytest.raises(RuntimeError, match="call calibrate"):
        LsqQuantizer(OPEN).codes(torch.ones(2))


def test_forward_and_backward_never_write_the_step_size():
    quantizer = calibrated()
    before = quantizer.step_size.detach().clone()
    version = quantizer.step_size._version
    quantizer(torch.randn(50)).sum().backward()
    assert torch.equal(quantizer.step_size, before)
    assert quantizer.step_size._version == version


@pytest.mark.parametrize(
    ("declared", "x", "found", "bounds"),
    [
        (None, torch.tensor([-0.1, 3.0]), True, (-8, 7)),
        (None, torch.tensor([0.0, 3.0]), False, (0, 15)),
        (True, torch.tensor([0.0, 3.0]), True, (-8, 7)),
        (False, torch.tensor([-0.1, 3.0]), False, (0, 15)),
    ],
)
def test_sign_is_found_from_the_data_unless_the_spec_says(declared, x, found, bounds):
    quantizer = calibrated(TensorSpec(bits=4, signed=declared), x)
    assert quantizer.signed is found
    assert quantizer.bounds == bounds


def test_narrow_range_at_2_bits_is_ternary():
    quantizer = calibrated(TensorSpec(bits=2, narrow_range=True))
    assert quantizer.codes(torch.randn(1000)).unique().tolist() == [-1, 0, 1]
    assert calibrated(TensorSpec(bits=2)).codes(torch.randn(1000)).unique().tolist() == [
        *(-2, -1, 0, 1)
    ]


def test_codes_times_step_are_the_output():
    quantizer, x = calibrated(), torch.randn(50)
    assert torch.equal(quantizer.codes(x) * quantizer.step_size, quantizer(x))


@pytest.mark.parametrize(
    ("n_features", "axis", "shape", "count"),
    [
        ("per_sample", -3, (8, 3, 4, 5), 60),
        ("per_sample", -3, (3, 4, 5), 60),  # a convolution's input without a batch
        ("per_sample", -1, (8, 60), 60),
        ("per_sample", -1, (60,), 60),
        ("per_sample", -1, (8, 7, 6), 42),
        ("numel", -3, (8, 3, 4, 5), 480),
        ("channels", -3, (8, 3, 4, 5), 3),
        ("channels", -3, (3, 4, 5), 3),
        ("channels", -1, (8, 7, 6), 6),
        ("channels", 1, (8, 7, 6), 7),
    ],
)
def test_the_three_readings_of_the_number_of_features(n_features, axis, shape, count):
    spec = TensorSpec(bits=4, n_features=n_features)
    quantizer = LsqQuantizer(spec, batched=True, channel_axis=axis)
    assert quantizer.grad_scale_numel(torch.empty(shape)) == count


def test_per_sample_gradient_scale_does_not_depend_on_the_batch():
    counts = {
        n: LsqQuantizer(TensorSpec(n_features="per_sample"), batched=True).grad_scale_numel(
            torch.empty(n, 3, 2, 2)
        )
        for n in (0, 1, 64)
    }
    assert set(counts.values()) == {12}


def test_number_of_weights_is_that_of_one_step():
    weight = torch.randn(6, 5, 3, 3)
    assert LsqQuantizer(TensorSpec()).grad_scale_numel(weight) == 270
    per_channel = LsqQuantizer(TensorSpec(per_channel=True), step_shape=(6, 1, 1, 1))
    assert per_channel.grad_scale_numel(weight) == 45


def test_gradient_scale_is_one_over_the_root_of_n_times_the_highest_code():
    x = torch.full((10,), 9.0)
    quantizer = calibrated(TensorSpec(bits=4), torch.ones(10))
    quantizer(x).sum().backward()  # all at the upper bound: each adds 7
    torch.testing.assert_close(quantizer.step_size.grad.item(), 70 * grad_scale_factor(10, 7))


@pytest.mark.parametrize("form", ["strict", "torch", "safetensors"])
@pytest.mark.parametrize("x", [torch.randn(9), torch.rand(9)], ids=["signed", "unsigned"])
def test_checkpoints_carry_step_sign_and_flag(tmp_path, form, x):
    source, target = calibrated(x=x), LsqQuantizer(OPEN)
    state = source.state_dict()
    if form == "torch":
        torch.save(state, tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
    if form == "safetensors":
        save_file(state, tmp_path / "state.safetensors")
        state = load_file(tmp_path / "state.safetensors")
    target.load_state_dict(state, strict=True)
    assert (target.calibrated, target.signed) == (True, source.signed)
    assert torch.equal(target(x), source(x))


def test_a_checkpoint_of_an_uncalibrated_quantizer_makes_an_uncalibrated_one():
    target = calibrated()
    target.load_state_dict(LsqQuantizer(OPEN).state_dict())
    assert (target.calibrated, target.signed) == (False, None)


def test_a_checkpoint_without_the_flags_is_refused_by_a_strict_load():
    state = calibrated().state_dict()
    del state["_extra_state"]
    with pytest.raises(RuntimeError, match="_extra_state"):
        LsqQuantizer(OPEN).load_state_dict(state)


def test_a_checkpoint_of_another_sign_is_refused():
    state = calibrated(x=torch.randn(9)).state_dict()
    with pytest.raises(ValueError, match="prepare the model with the spec it was trained with"):
        LsqQuantizer(TensorSpec(bits=4, signed=False)).load_state_dict(state)


@pytest.mark.parametrize("state", [[2, 0], [1], [1, 7], [[1, 0]]])
def test_flags_that_are_not_ours_are_refused(state):
    with pytest.raises(ValueError, match="must be"):
        LsqQuantizer(OPEN).set_extra_state(torch.tensor(state))


def test_a_copy_has_the_flags_and_a_step_of_its_own():
    source = calibrated()
    twin = copy.deepcopy(source)
    assert (twin.calibrated, twin.signed) == (True, source.signed)
    assert twin.step_size is not source.step_size


def test_a_failed_calibration_changes_nothing():
    quantizer = calibrated()
    before = quantizer.step_size.item()
    with pytest.raises(ValueError, match="NaN"):
        quantizer.calibrate(torch.tensor([float("nan")]))
    assert (quantizer.step_size.item(), quantizer.calibrated) == (before, True)


def test_what_cannot_be_quantized_is_refused_at_construction():
    with pytest.raises(ValueError, match="None"):
        LsqQuantizer(TensorSpec(bits=32))
    with pytest.raises(ValueError, match="step_shape"):
        LsqQuantizer(TensorSpec(per_channel=True))


def test_calibration_for_activations_reads_lsq_plus_as_least_error():
    x = torch.randn(500)
    by_plus = calibrated(TensorSpec(bits=4, init="lsq_plus"), x, batched=True)
    by_error = calibrated(TensorSpec(bits=4, init="mse"), x)
    assert torch.equal(by_plus.step_size, by_error.step_size)


def test_printing_tells_bits_sign_and_state():
    assert "4 bits, sign open, step (), not calibrated" in repr(LsqQuantizer(OPEN))
    assert repr(calibrated(x=torch.rand(3))).endswith("(4 bits, unsigned, step ())")
