"""Laws of looking at quantizers: what each number says, and that looking changes nothing."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lsqctl.quant import (
    OscillationTracker,
    QuantSpec,
    calibrate,
    collect_stats,
    param_groups,
    prepare,
    quantized_layers,
    quantizers,
)

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def net(**spec: object) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(80, 2),
    )
    prepare(model, QuantSpec(**{"weight_bits": 3, "act_bits": 2} | spec))
    calibrate(model, IMAGES)
    return model


def by_name(model: nn.Module, images: torch.Tensor = IMAGES) -> dict:
    return {one.name: one for one in collect_stats(model, images)}


def trained(model: nn.Module) -> nn.Module:
    optimizer = torch.optim.SGD(param_groups(model, lr=0.01, weight_decay=0), momentum=0.9)
    model(IMAGES).square().sum().backward()
    optimizer.step()
    return model


def test_every_quantizer_is_read_in_the_models_order_with_its_bits_and_sign():
    model = net()
    found = collect_stats(model, IMAGES)
    assert [one.name for one in found] == list(quantizers(model))
    assert [(one.kind, one.bits, one.n_codes) for one in found] == [
        ("input", 8, 256),
        ("weight", 8, 256),
        ("input", 2, 4),
        ("weight", 3, 8),
        ("input", 8, 256),
        ("weight", 8, 256),
    ]
    assert [one.signed for one in found] == [True, True, False, True, True, True]


def test_the_numbers_of_a_weight_are_those_of_its_values():
    model = net()
    layer = model[3]
    with torch.no_grad():
        layer.weight_quantizer.step_size.fill_(0.5)  # -4..3 is -2.0..1.5
        layer.weight.zero_()
        layer.weight.view(-1)[:6] = torch.tensor([-2.0, -2.01, 1.5, 1.51, 0.25, 0.76])
    one = by_name(model)["3.weight_quantizer"]
    assert one.clip_fraction == pytest.approx(2 / layer.weight.numel())  # at a bound: not clipped
    assert one.codes_used == 4  # -4, 0 (0.5 is half-even), 2, 3
    assert (one.step_size, one.step_size_min, one.step_size_max) == (0.5, 0.5, 0.5)


def test_steps_a_channel_show_their_mean_and_range_and_the_codes_of_all():
    model = net(per_channel=True)
    quantizer = model[3].weight_quantizer
    with torch.no_grad():
        quantizer.step_size.copy_(torch.arange(1.0, 6.0).view(5, 1, 1, 1))
        model[3].weight.fill_(2.0)
    one = by_name(model)["3.weight_quantizer"]
    assert (one.step_size, one.step_size_min, one.step_size_max) == (3, 1, 5)
    assert one.codes_used == 3  # 2/1, 2/2, 2/3 to 1, 2/4 to 0, 2/5 to 0


def test_an_input_is_read_from_what_reaches_it_in_evaluation_mode():
    model = net()
    seen = []
    handle = model[3].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    one = by_name(model)["3.input_quantizer"]
    handle.remove()
    (x,) = seen
    quantizer = model[3].input_quantizer
    assert one.codes_used == quantizer.codes(x).unique().numel()
    clipped = (x > 3 * quantizer.step_size).float().mean()
    assert one.clip_fraction == pytest.approx(float(clipped))
    assert 0 < one.clip_fraction < 0.5


def test_r_is_the_papers_ratio_of_relative_gradients_for_both_quantizers_of_a_layer():
    model = net()
    assert {one.r_ratio for one in collect_stats(model, IMAGES)} == {None}
    model(IMAGES).square().sum().backward()
    layer = model[3]
    weights = layer.weight.grad.norm() / layer.weight.norm()
    for key in ("input_quantizer", "weight_quantizer"):
        step = getattr(layer, key).step_size
        wanted = ((step.grad.abs() / step) / weights).item()
        assert by_name(model)[f"3.{key}"].r_ratio == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, torch.inf, torch.nan])
def test_r_is_none_where_it_means_nothing(value):
    model = trained(net())
    model[3].weight.grad.fill_(value)
    assert by_name(model)["3.weight_quantizer"].r_ratio is None


def test_looking_changes_nothing():
    model, other = trained(net()).train(), trained(net()).train()
    model[0].eval()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    grads = [p.grad.clone() for p in model.parameters()]
    watch = OscillationTracker(model)
    for _ in range(3):
        collect_stats(model, IMAGES)
        watch.update()
    assert torch.equal(random, torch.get_rng_state())
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in state.items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert [m.training for m in model] == [False] + [True] * 6
    assert all(not m._forward_pre_hooks for m in model.modules())
    model[0].train()
    torch.manual_seed(3)
    first = model(IMAGES)
    torch.manual_seed(3)
    assert torch.equal(first, other(IMAGES))


def oscillating(paths: list[list[int]]) -> float:
    """The definition, the slow way: a change against the direction of the one before it."""
    count = 0
    for path in paths:
        changes = [b - a for a, b in itertools.pairwise(path) if a != b]
        count += any(a * b < 0 for a, b in itertools.pairwise(changes))
    return count / len(paths)


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(-4, 3), min_size=20, max_size=20), min_size=3, max_size=6))
def test_a_weight_oscillates_when_its_code_changes_back(looks):
    layer = nn.Linear(5, 4, bias=False)
    model = prepare(
        nn.Sequential(layer, nn.Linear(4, 2), nn.Linear(2, 2)),
        QuantSpec(3, 3, first_weight_bits=3, first_act_bits=3),
    )
    calibrate(model, torch.randn(4, 5))
    watch = OscillationTracker(model)
    quantizer = model[0].weight_quantizer
    for codes in looks:
        with torch.no_grad():
            weight = torch.tensor(codes).view(4, 5) * quantizer.step_size
            model[0].weight.copy_(weight)
        watch.update()
    rates = watch.rates()
    wanted = oscillating([list(path) for path in zip(*looks, strict=True)])
    assert rates["0.weight_quantizer"] == pytest.approx(wanted)
    assert rates["1.weight_quantizer"] == 0


def moved(model: nn.Module, watch: OscillationTracker, seeds: range) -> dict[str, float]:
    for seed in seeds:
        draw = torch.Generator().manual_seed(seed)
        for layer in quantized_layers(model).values():
            with torch.no_grad():
                layer.master_weight.add_(0.02 * torch.randn(layer.weight.shape, generator=draw))
        watch.update()
    return watch.rates()


def test_what_was_seen_goes_on_from_its_state():
    whole = OscillationTracker(model := net())
    wanted = moved(model, whole, range(6))
    first = OscillationTracker(model := net())
    assert first.state_dict() == {}
    moved(model, first, range(3))
    second = OscillationTracker(model)
    second.load_state_dict(first.state_dict())
    assert moved(model, second, range(3, 6)) == wanted
    assert 0 < max(wanted.values()) < 1
    second.load_state_dict({})
    assert not second.started
    with pytest.raises(ValueError, match="weights, the model has"):
        OscillationTracker(nn.Sequential(*list(model)[:3])).load_state_dict(first.state_dict())


def test_two_looks_say_nothing_and_an_unquantized_model_has_nothing_to_say():
    watch = OscillationTracker(model := net())
    assert moved(model, watch, range(2)) == {}
    plain = nn.Linear(2, 2)
    watch = OscillationTracker(plain)
    watch.update()
    assert (watch.rates(), watch.started) == ({}, False)
    assert collect_stats(plain, torch.randn(3, 2)) == []


@pytest.mark.parametrize("signed", [True, False])
def test_eight_bits_fit_the_small_codes_signed_or_not(signed):
    layer = net()[0]
    layer.weight_quantizer.signed = signed
    layer.weight_quantizer.step_size.data.fill_(1.0)
    model = nn.Sequential(layer)
    lowest, highest = layer.weight_quantizer.bounds
    layer.weight.data.zero_()
    watch = OscillationTracker(model)
    for rising, falling in ((lowest, highest), (lowest + 100, 0), (lowest + 200, highest)):
        layer.weight.data.view(-1)[:2] = torch.tensor([rising, falling])
        watch.update()
    assert watch.rates()["0.weight_quantizer"] == pytest.approx(1 / layer.weight.numel())


def test_a_network_that_diverged_is_read_all_the_same():
    """Its run is to end as diverged, not by the one who looked."""
    model = net()
    with torch.no_grad():
        next(iter(quantizers(model).values())).step_size.fill_(float("nan"))
    assert len(collect_stats(model, IMAGES)) == len(quantizers(model))
