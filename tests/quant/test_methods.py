"""Methods of other papers: golden values of each, worked out by hand from its equations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsqctl.quant import QuantSpec, calibrate, clamp_step_sizes, param_groups, prepare, quantizers
from lsqctl.quant.methods import METHODS, OFF, build_methods, conflicts
from lsqctl.quant.methods.dampening import dampening_gradient
from lsqctl.quant.methods.freezing import MOMENTUM, Oscillations, follow
from lsqctl.quant.methods.transition_rate import adapted_lr, transition_rate
from lsqctl.quant.methods.weight_steps import mean_magnitude

LR = 0.1


def prepared(values, *, momentum=0.0, step_lr_scale=1.0, bits=2):
    """Return a calibrated net of two linear layers, its optimizer and its methods."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))
    bits_of_ends = {f"{end}_weight_bits": bits for end in ("first", "last")}
    model = prepare(model, QuantSpec(weight_bits=bits, act_bits=4, **bits_of_ends))
    calibrate(model, torch.randn(16, 8))
    groups = param_groups(model, lr=LR, weight_decay=0.0, step_lr_scale=step_lr_scale)
    optimizer = torch.optim.SGD(groups, lr=LR, momentum=momentum)
    methods = build_methods(model, optimizer, values)
    clamp_step_sizes(optimizer, model)
    methods.attach(optimizer)
    return model, optimizer, methods


def steps(model, optimizer, methods, count=1, *, first=0, of=10):
    """Take optimizer steps on batches that are drawn by their number."""
    for number in range(first, first + count):
        methods.set_progress(number / of)
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def weight_quantizers(model):
    return {name: q for name, q in quantizers(model).items() if not q.batched}


def test_dampening_pulls_to_the_middle_of_a_code_and_leaves_clipped_weights_alone():
    weight = torch.tensor([0.0, 0.7, 1.0, 1.3, -0.8, -4.0, -4.2, 3.4])
    expected = [0.0, -0.6, 0.0, 0.6, 0.4, 0.0, 0.0, 0.0]  # 2 (w - w^), s = 1, codes -4..3
    found = dampening_gradient(weight, torch.tensor(1.0), (-4, 3))
    torch.testing.assert_close(found, torch.tensor(expected))
    scaled = dampening_gradient(weight * 0.5, torch.tensor(0.5), (-4, 3))
    torch.testing.assert_close(scaled, torch.tensor(expected) * 0.5)


def test_dampening_is_the_gradient_of_its_loss():
    weight = torch.randn(200, generator=torch.Generator().manual_seed(1)).requires_grad_()
    step, bounds = torch.tensor(0.4), (-2, 1)
    on_grid = (weight / step).clamp(*bounds).round().detach() * step
    loss = (on_grid - weight.clamp(step * bounds[0], step * bounds[1])).square().sum()
    loss.backward()
    found = dampening_gradient(weight.detach(), step, bounds)
    torch.testing.assert_close(found, weight.grad)


def test_dampening_grows_by_half_a_cosine_after_a_quarter_of_the_training():
    plain, damped = prepared({}), prepared({"dampening": 0.5})
    for progress, share in ((0.0, 0.0), (0.25, 0.0), (0.5, 0.25), (0.625, 0.5), (1.0, 1.0)):
        grads = []
        for model, optimizer, methods in (plain, damped):
            steps(model, optimizer, methods, 0)
            optimizer.zero_grad()
            model(torch.ones(4, 8)).sum().backward()
            methods.set_progress(progress)
            methods._act("before_step")
            grads.append(model[0].weight.grad.clone())
        quantizer = plain[0][0].weight_quantizer
        pull = dampening_gradient(plain[0][0].weight, quantizer.step_size, quantizer.bounds)
        torch.testing.assert_close(grads[1] - grads[0], 0.5 * share * pull.detach())


def test_a_code_oscillates_when_it_changes_against_its_last_change():
    def known(codes):
        return torch.tensor(codes, dtype=torch.int8)

    rows = [[0, 0, 0], [1, 1, 0], [0, 2, 0], [1, 2, 0], [1, 1, 0]]
    state, frequencies = Oscillations.start(known(rows[0])), []
    for row in rows[1:]:
        state = follow(state, known(row), threshold=1.0)
        frequencies.append((state.frequency / MOMENTUM).tolist())
    m = MOMENTUM
    keep = 1 - m
    assert frequencies[0] == [0, 0, 0]  # a first change is no oscillation
    assert frequencies[1] == pytest.approx([1, 0, 0])
    assert frequencies[2] == pytest.approx([keep + 1, 0, 0])
    assert frequencies[3] == pytest.approx([keep**2 + keep, 1, 0])
    average = 0.0
    for code in (1, 0, 1, 1):
        average = m * code + keep * average
    assert state.average[0].item() == pytest.approx(average)
    assert not state.frozen.any()


def test_a_frozen_weight_keeps_the_rounded_average_of_its_codes_for_good():
    state = Oscillations.start(torch.tensor([1, 3], dtype=torch.int8))
    for code in (0, 1, 0, 1):
        state = follow(state, torch.tensor([code, 3], dtype=torch.int8), threshold=1.5 * MOMENTUM)
    assert state.frozen.tolist() == [True, False]
    assert state.frozen_codes[0].item() == 1  # the average began at 1 and moved little
    for code in (0, 0, 0, 0):
        state = follow(state, torch.tensor([code, 3], dtype=torch.int8), threshold=1.0)
    assert (state.frozen.tolist(), state.frozen_codes[0].item()) == ([True, False], 1)


def test_a_falling_threshold_freezes_nothing_in_the_first_quarter_of_the_training():
    model, optimizer, methods = prepared({"freezing": (1e-9, 1e-10)}, momentum=0.9)
    steps(model, optimizer, methods, 10, of=40)
    known = methods.state_dict()["freezing"]
    assert known["frequency"].any()
    assert not known["frozen"].any()
    assert torch.equal(known["average"], known["codes"].float())
    steps(model, optimizer, methods, 1, first=10, of=40)
    frozen = methods.state_dict()["freezing"]["frozen"]
    assert torch.equal(frozen, methods.state_dict()["freezing"]["frequency"] > 1e-9)
    assert frozen.any()


def test_a_code_is_frozen_at_the_average_of_those_before_it():
    known = Oscillations.start(torch.tensor([0], dtype=torch.int8))
    known = known._replace(
        direction=torch.tensor([-1], dtype=torch.int8), average=torch.tensor([0.4999])
    )
    after = follow(known, torch.tensor([1], dtype=torch.int8), threshold=0.5 * MOMENTUM)
    assert after.average.item() > 0.5
    assert (after.frozen.item(), after.frozen_codes.item()) == (True, 0)


def test_frozen_weights_keep_their_codes_while_their_step_size_learns():
    model, optimizer, methods = prepared({"freezing": (1e-9, 1e-9)}, momentum=0.9)
    steps(model, optimizer, methods, 8)
    known = methods.state_dict()["freezing"]
    assert 0 < methods.metrics()["frozen_weights"] < 100
    before = {name: q.step_size.item() for name, q in weight_quantizers(model).items()}
    steps(model, optimizer, methods, 4, first=8)
    for name, quantizer in weight_quantizers(model).items():
        assert quantizer.step_size.item() != before[name]
    codes = torch.cat(
        [layer.weight_quantizer.codes(layer.weight).flatten() for layer in (model[0], model[2])]
    )
    assert torch.equal(codes[known["frozen"]], known["frozen_codes"][known["frozen"]].int())


def test_a_transition_is_a_code_that_changed_and_the_rate_moves_the_learning_rate():
    assert transition_rate(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 3, 2])) == 0.5
    assert adapted_lr(0.2, target=0.3, rate=0.1, gain=0.5) == pytest.approx(0.3)
    assert adapted_lr(0.2, target=0.1, rate=0.3, gain=0.5) == pytest.approx(0.1)
    assert adapted_lr(0.01, target=0.0, rate=1.0, gain=0.5) == 0.0


def test_the_weights_move_by_the_adapted_rate_and_all_else_by_the_scheduled_one():
    values = {"transition_rate": 0.25, "weight_steps": "fixed"}
    model, optimizer, methods = prepared(values)
    names = [group["name"] for group in optimizer.param_groups]
    assert names[-1] == "quantized_weights"
    assert "weights" not in names
    rate, lr = 0.25, LR
    for number in range(4):
        layers = (model[0], model[2])
        before = [layer.weight.detach().clone() for layer in layers]
        codes = [layer.weight_quantizer.codes(layer.weight) for layer in layers]
        optimizer.param_groups[-1]["lr"] = 77.0  # what a schedule says is not heard
        steps(model, optimizer, methods, 1, first=number, of=8)
        for layer, old in zip(layers, before, strict=True):
            torch.testing.assert_close(layer.weight, old - lr * layer.weight.grad)
        changed = sum(
            int((layer.weight_quantizer.codes(layer.weight) != old).sum())
            for layer, old in zip(layers, codes, strict=True)
        )
        rate = 0.99 * rate + 0.01 * changed / (64 + 32)
        target = 0.25 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * number / 8))).item()
        lr = max(0.0, lr + LR * (target - rate))
    assert methods.metrics() == {
        "code_changes": pytest.approx(100 * rate),
        "weight_lr": pytest.approx(lr),
    }


def test_a_step_by_statistic_is_the_papers_first_value_at_every_step():
    weight = torch.tensor([[1.0, -3.0], [0.5, 0.5]])
    assert mean_magnitude(weight, ()).item() == 1.25
    assert mean_magnitude(weight, (2, 1)).flatten().tolist() == [2.0, 0.5]
    model, optimizer, methods = prepared({"weight_steps": "statistic"}, bits=3)
    first = model[0].weight_quantizer.step_size.item()
    steps(model, optimizer, methods, 3)
    layer = model[0]
    expected = 2 * layer.weight.abs().mean() / 3**0.5  # 2 <|w|> / sqrt(Q_P)
    torch.testing.assert_close(layer.weight_quantizer.step_size.detach(), expected.detach())
    assert layer.weight_quantizer.step_size.item() != first
    assert layer.weight_quantizer.step_size.grad is None
    assert layer.input_quantizer.step_size.grad is not None


def test_fixed_step_sizes_of_weights_stay_and_those_of_activations_learn():
    model, optimizer, methods = prepared({"weight_steps": "fixed"})
    before = {name: q.step_size.item() for name, q in quantizers(model).items()}
    steps(model, optimizer, methods, 2)
    for name, quantizer in quantizers(model).items():
        assert (quantizer.step_size.item() == before[name]) == (not quantizer.batched)


def test_adam_moves_each_step_size_by_its_rate_and_weights_as_sgd_does():
    ways = {"step_optimizer": "adam"}
    model, optimizer, methods = prepared(ways, step_lr_scale=0.01)
    plain = prepared({}, step_lr_scale=0.01)
    before = {name: q.step_size.item() for name, q in quantizers(model).items()}
    steps(model, optimizer, methods)
    steps(*plain)
    for name, quantizer in quantizers(model).items():
        grad = quantizer.step_size.grad.item()
        moved = quantizer.step_size.item() - before[name]
        assert moved == pytest.approx(-0.01 * LR * grad / (abs(grad) + 1e-8), rel=1e-3)
    assert torch.equal(model[0].weight, plain[0][0].weight)


ALL = {
    "weight_steps": "statistic",
    "transition_rate": 0.1,
    "dampening": 0.1,
    "step_optimizer": "adam",
}


@pytest.mark.parametrize("values", [ALL, {"freezing": (0.02, 0.001), "weight_steps": "fixed"}])
def test_methods_go_on_from_their_state_to_the_bit(values):
    whole, first, second = (prepared(values, momentum=0.9, step_lr_scale=0.01) for _ in range(3))
    steps(*whole, 8)
    steps(*first, 5)
    for place in (0, 1, 2):
        second[place].load_state_dict(first[place].state_dict())
    steps(*second, 3, first=5)
    for (name, ours), (_, other) in zip(
        second[0].named_parameters(), whole[0].named_parameters(), strict=True
    ):
        assert torch.equal(ours, other), name
    assert second[2].metrics() == whole[2].metrics()


def test_methods_that_exclude_each_other_are_refused_with_what_to_do():
    def found(**values):
        return [(one.key, one.other_key) for one in conflicts(OFF | values)]

    assert found(transition_rate=0.1) == [("transition_rate", "weight_steps")]
    assert found(transition_rate=0.1, weight_steps="fixed") == []
    assert ("freezing", "transition_rate") in found(
        transition_rate=0.1, weight_steps="fixed", freezing=(0.1, 0.1)
    )
    assert found(freezing=(0.1, 0.1), weight_steps="statistic") == [("freezing", "weight_steps")]
    assert found() == found(dampening=1.0, freezing=(0.1, 0.1), step_optimizer="adam") == []
    with pytest.raises(ValueError, match="set weight_steps to statistic or fixed"):
        prepared({"transition_rate": 0.1})


def test_what_a_method_is_about_must_be_there():
    with pytest.raises(ValueError, match=r"unknown method damping; known are weight_steps, "):
        prepared({"damping": 1})
    with pytest.raises(ValueError, match="quantized to at most 4 bits"):
        prepared({"freezing": (0.1, 0.1)}, bits=8)
    model = prepare(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), QuantSpec(weight_bits=32))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="no group step_sizes"):
        build_methods(model, optimizer, {"step_optimizer": "adam"})


def test_every_method_has_its_key_in_recipes_and_is_off_there():
    from lsqctl.recipe import QuantSection

    assert QuantSection().method_values() == OFF
    assert METHODS.keys() == OFF.keys()
