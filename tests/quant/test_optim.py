"""Every parameter is trained once, every step moves, and no step can turn negative."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lsqctl.quant import (
    MIN_STEP_SIZE,
    QuantSpec,
    calibrate,
    clamp_step_sizes,
    param_groups,
    prepare,
    quantizers,
)


@pytest.fixture
def quant_net(small_net, images):
    model = prepare(small_net, QuantSpec(per_channel=True))
    calibrate(model, images)
    return model


def by_name(groups):
    return {group["name"]: set(group["names"]) for group in groups}


def sgd(model, lr=0.1, **options):
    return torch.optim.SGD(param_groups(model, lr=lr, weight_decay=1e-4, **options), momentum=0.9)


def test_each_parameter_is_in_exactly_one_group(quant_net):
    groups = param_groups(quant_net, lr=0.1, weight_decay=1e-4)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in quant_net.parameters())


def test_weights_decay_and_norms_biases_and_steps_do_not(quant_net):
    groups = param_groups(quant_net, lr=0.1, weight_decay=1e-4)
    names = by_name(groups)
    assert names["weights"] == {"0.weight", "3.weight", "6.weight", "9.weight"}
    assert names["no_decay"] == {"6.bias", "9.bias"} | {
        f"{norm}.{kind}" for norm in (1, 4) for kind in ("weight", "bias")
    }
    assert names["step_sizes"] == {f"{name}.step_size" for name in quantizers(quant_net)}
    assert [group["weight_decay"] for group in groups] == [1e-4, 0.0, 0.0]


def test_steps_take_a_decay_and_a_rate_of_their_own(quant_net):
    groups = param_groups(
        quant_net, lr=0.1, weight_decay=1e-4, step_weight_decay=1e-5, step_lr_scale=0.5
    )
    assert [group["lr"] for group in groups] == [0.1, 0.1, 0.05]
    assert groups[-1]["weight_decay"] == 1e-5


def test_shared_modules_and_tied_weights_are_grouped_once():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, shared, nn.Linear(4, 4))
    model[2].weight = shared.weight
    groups = param_groups(prepare(model, QuantSpec()), lr=1, weight_decay=0)
    torch.optim.SGD(groups)  # warns of duplicates, and warnings are errors
    assert sum(len(group["params"]) for group in groups) == 3 + 3  # one step for it


def test_frozen_parameters_are_in_no_group_and_empty_groups_are_left_out():
    model = nn.Linear(3, 3)
    model.weight.requires_grad_(False)
    assert by_name(param_groups(model, lr=1, weight_decay=1)) == {"no_decay": {"bias"}}


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_every_step_moves_after_one_step_of_any_optimizer(quant_net, images, optimizer):
    before = {name: q.step_size.detach().clone() for name, q in quantizers(quant_net).items()}
    optimizer = optimizer(param_groups(quant_net, lr=1e-2, weight_decay=0))
    nn.functional.cross_entropy(quant_net(images), torch.arange(16) % 5).backward()
    optimizer.step()
    for name, quantizer in quantizers(quant_net).items():
        assert (quantizer.step_size != before[name]).all(), name


def test_an_optimizer_made_before_calibration_trains_the_same_steps(small_net, images):
    prepare(small_net, QuantSpec())
    optimizer = sgd(small_net)
    calibrate(small_net, images)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in small_net.parameters()}


def hostile_step(model, optimizer, gradient):
    for quantizer in quantizers(model).values():
        quantizer.step_size.grad = torch.full_like(quantizer.step_size, gradient)
    optimizer.step()


def test_steps_stay_positive_under_a_hostile_optimizer_and_each_clamp_is_counted(quant_net):
    optimizer = sgd(quant_net, lr=1.0)
    handle = clamp_step_sizes(optimizer, quant_net)
    assert set(handle.clamped.values()) == {0}
    for _ in range(3):
        hostile_step(quant_net, optimizer, 1e6)
    for name, quantizer in quantizers(quant_net).items():
        assert (quantizer.step_size == MIN_STEP_SIZE).all()
        assert handle.clamped[name] == 3 * quantizer.step_size.numel()


def test_steps_above_the_floor_are_neither_changed_nor_counted(quant_net):
    optimizer = sgd(quant_net, lr=1e-6)
    handle = clamp_step_sizes(optimizer, quant_net)
    before = {name: q.step_size.detach().clone() for name, q in quantizers(quant_net).items()}
    hostile_step(quant_net, optimizer, 1.0)
    for name, quantizer in quantizers(quant_net).items():
        assert torch.equal(quantizer.step_size, before[name] - 1e-6)
    assert set(handle.clamped.values()) == {0}


def test_the_floor_can_be_chosen(quant_net):
    optimizer = sgd(quant_net, lr=1.0)
    clamp_step_sizes(optimizer, quant_net, floor=0.25)
    hostile_step(quant_net, optimizer, 1e6)
    assert all((q.step_size == 0.25).all() for q in quantizers(quant_net).values())


def test_a_step_that_is_nan_stays_nan_and_is_not_counted(quant_net):
    optimizer = sgd(quant_net)
    handle = clamp_step_sizes(optimizer, quant_net)
    hostile_step(quant_net, optimizer, math.nan)
    assert all(q.step_size.isnan().all() for q in quantizers(quant_net).values())
    assert set(handle.clamped.values()) == {0}


def test_a_removed_handle_clamps_no_more_and_keeps_its_counts(quant_net):
    optimizer = sgd(quant_net, lr=1.0)
    handle = clamp_step_sizes(optimizer, quant_net)
    hostile_step(quant_net, optimizer, 1e6)
    counts = handle.clamped
    handle.remove()
    hostile_step(quant_net, optimizer, 1e6)
    assert all((q.step_size < 0).all() for q in quantizers(quant_net).values())
    assert handle.clamped == counts


def test_an_optimizer_that_lacks_the_steps_is_refused(quant_net):
    weights = [q for n, q in quant_net.named_parameters() if "step_size" not in n]
    with pytest.raises(ValueError, match="lacks 8 step sizes"):
        clamp_step_sizes(torch.optim.SGD(weights), quant_net)


def test_a_float_model_or_a_floor_of_zero_is_refused(quant_net):
    with pytest.raises(ValueError, match="no quantizers"):
        clamp_step_sizes(sgd(quant_net), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="floor must be positive"):
        clamp_step_sizes(sgd(quant_net), quant_net, floor=0.0)
