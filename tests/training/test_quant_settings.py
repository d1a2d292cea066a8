"""Each quantization setting of a recipe changes what it should, and the result says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lsqctl.errors import DataError, UsageError
from lsqctl.events import Result
from lsqctl.quant import model_cost, quantized_layers, quantizers
from lsqctl.training.beginning import (
    build_on_device,
    initial_step_sizes,
    open_pipeline,
    quantize_model,
)
from lsqctl.training.checkpoint import load_model_state, resume_point
from lsqctl.training.restore import restore_model
from lsqctl.training.runtime import setup_torch
from lsqctl.training.weights import load_step_sizes, load_weights

from .attempts import assert_same_state, rows, run
from .conftest import tiny

SHORT = {"train": {"epochs": 1, "lr": 0.02}}
MIXED = {"layer1.*": {"weight_bits": 8, "act_bits": 8}, "layer1.0.conv2": {"weight_bits": 2}}


def first_values(job, **quant):
    """Return the model of a recipe with its first values, and the feed."""
    recipe = tiny(quant={"calibration_images": 64} | quant)
    made = job("unused")
    feed = open_pipeline(recipe, made, setup_torch(made, recipe.seed))
    model = quantize_model(build_on_device("resnet8", feed), recipe, feed.input_shape)
    initial_step_sizes(model, recipe, feed, {})
    return model, feed


def steps(model, kind):
    return [q.step_size.detach() for name, q in quantizers(model).items() if name.endswith(kind)]


@pytest.fixture
def plain(job):
    return first_values(job)[0]


@pytest.mark.parametrize(
    ("quant", "changed", "same"),
    [
        ({"init": "mse"}, "weight_quantizer", ""),
        ({"init": "lsq_plus"}, "weight_quantizer", ""),
        ({"init": "percentile"}, "weight_quantizer", ""),
        ({"init": "percentile", "percentile": 90.0}, "weight_quantizer", ""),
        ({"act_signed": "signed"}, "input_quantizer", "weight_quantizer"),
        ({"calibration_images": 8}, "input_quantizer", "weight_quantizer"),
    ],
    ids=str,
)
def test_a_setting_of_the_first_values_changes_them(job, plain, quant, changed, same):
    model, _ = first_values(job, **quant)
    assert any(a != b for a, b in zip(steps(model, changed), steps(plain, changed), strict=True))
    if same:
        assert all(a == b for a, b in zip(steps(model, same), steps(plain, same), strict=True))
    assert torch.stack(steps(model, changed)).min() > 0


def test_each_first_value_rule_gives_values_of_its_own(job):
    rules = ("paper", "mse", "lsq_plus", "percentile")
    found = {float(steps(first_values(job, init=rule)[0], "weight_quantizer")[1]) for rule in rules}
    assert len(found) == 4


@pytest.mark.parametrize(("sign", "signed"), [("signed", True), ("unsigned", False)])
def test_a_given_sign_holds_everywhere_and_auto_looks_at_the_data(job, plain, sign, signed):
    def signs(model):
        return {layer.input_quantizer.signed for layer in quantized_layers(model).values()}

    assert signs(first_values(job, act_signed=sign)[0]) == {signed}
    assert signs(plain) == {True, False}  # the normalized images, and what ReLU leaves


def test_the_reading_of_n_f_decides_the_gradient_of_activation_steps_and_of_nothing_else(job):
    grads = {}
    for reading in ("per_sample", "numel", "channels"):
        model, feed = first_values(job, n_features=reading)
        images = next(iter(feed.eval_batches()))[0][:32]
        model.eval()(images).square().sum().backward()
        kinds = ("input_quantizer", "weight_quantizer")
        grads[reading] = [
            [q.step_size.grad for n, q in quantizers(model).items() if n.endswith(kind)]
            for kind in kinds
        ]
    (sample, weights), (numel, also), (channels, _) = grads.values()
    for one, other, third, kept, same in zip(sample, numel, channels, weights, also, strict=True):
        torch.testing.assert_close(one, other * 32**0.5)
        assert third.abs() >= one.abs()
        assert torch.equal(kept, same)


def test_a_narrow_range_makes_2_bits_ternary(job):
    model, _ = first_values(job, weight_bits=2, narrow_range=True)
    layer = quantized_layers(model)["layer1.0.conv1"]
    assert layer.weight_quantizer.codes(layer.weight).unique().tolist() == [-1, 0, 1]
    assert layer.input_quantizer.bounds == (0, 15)


@pytest.mark.parametrize(
    ("quant", "said"),
    [
        (
            {"weight_bits": 4, "act_bits": 32, "first_act_bits": 32, "last_act_bits": 32},
            {"weight_bits": 4, "act_bits": 32, "first_last_bits": "w8a32"},
        ),
        (
            {"weight_bits": 32, "act_bits": 4, "first_weight_bits": 32, "last_weight_bits": 32},
            {"weight_bits": 32, "act_bits": 4, "first_last_bits": "w32a8"},
        ),
        (
            {"overrides": {"conv1": {"weight_bits": 3}, "layer2.*": {"per_channel": True}}},
            {
                "first_last_bits": "w3a8/w8a8",
                "granularity": "mixed",
                "notes": "conv1: weight_bits 3; layer2.*: per_channel true",
            },
        ),
        (
            {"per_channel": True, "act_offset": "learned", "residual_bits": 8},
            {
                "granularity": "per-channel",
                "method": "lsq+offset",
                "notes": "inputs of residual additions at 8 bits",
            },
        ),
    ],
    ids=["W4A32", "W32A4", "mixed", "offset"],
)
def test_a_run_trains_and_its_row_tells_its_settings(job, quant, said):
    recipe = tiny(**SHORT, quant=quant)
    result = run(recipe, job())[-1]
    assert isinstance(result, Result)
    notes = said.pop("notes", "")
    assert {key: getattr(result, key) for key in said} == said
    assert notes in result.notes
    model = restore_model(recipe, job().run_dir / result.evaluations[0].checkpoint)
    assert model_cost(model, (1, 8, 8)).size_bytes == result.size_bytes


def test_only_weights_or_only_activations_have_steps(job):
    only = {"first_act_bits": 32, "last_act_bits": 32, "act_bits": 32}
    model, _ = first_values(job, **only)
    assert not any(one.batched for one in quantizers(model).values())
    only = {key.replace("act", "weight"): 32 for key in only}
    model, _ = first_values(job, **only)
    assert all(one.batched for one in quantizers(model).values())


@pytest.mark.slow
def test_overrides_offsets_and_residual_additions_resume_to_the_bit(job):
    settings = {"act_offset": "learned", "act_signed": "signed", "residual_bits": 4}
    recipe = tiny(**SHORT, quant=settings | {"overrides": MIXED})
    whole = run(recipe, job("whole"))
    cut = run(recipe, job("cut"), stop_after=4)
    rest = run(recipe, job("cut"))
    assert rows(cut) + rows(rest) == rows(whole)
    assert_same_state(job("whole").run_dir, job("cut").run_dir)
    snapshot = resume_point(job("cut").run_dir)[0]
    offsets = [value for key, value in snapshot.model.items() if key.endswith(".offset")]
    assert len(offsets) == 8 + 2 * 3  # every layer's input, and both inputs of three additions
    assert all(float(one) != 0 for one in offsets)


def test_a_child_starts_from_a_parent_that_was_quantized_with_other_settings(job):
    recipe = tiny(**SHORT, quant={"act_offset": "learned", "residual_bits": 4})
    checkpoint = job().run_dir / run(recipe, job())[-1].evaluations[0].checkpoint
    made = job("child")
    feed = open_pipeline(recipe, made, setup_torch(made, 0))
    load_weights(build_on_device("resnet8", feed), checkpoint, model_name="resnet8")


def _continued(job, quant, parent_quant):
    """Return the step sizes of a trained parent, and the events of a child without epochs."""
    parent = run(tiny(**SHORT, quant=parent_quant), job("parent"))[-1].evaluations[0].checkpoint
    checkpoint = job("parent").run_dir / parent
    made = replace(job("child"), inputs={"model.weights": checkpoint})
    recipe = tiny(model={"weights": "parent.pt"}, train={"epochs": 0}, quant=quant)
    events = run(recipe, made)
    state = resume_point(made.run_dir)[0].model
    return load_model_state(checkpoint), state, [str(event) for event in events]


def test_a_run_goes_on_with_the_learned_step_sizes_of_a_parent_of_the_same_settings(job):
    parent, child, events = _continued(job, {"weight_bits": 4}, {"weight_bits": 4})
    step_sizes = [key for key in parent if key.endswith("step_size")]
    assert step_sizes
    assert all(torch.equal(parent[key], child[key]) for key in step_sizes)
    assert any("learned step sizes were kept: same bits" in event for event in events)


def test_a_run_of_fewer_bits_calibrates_what_differs_and_says_so(job):
    parent, child, events = _continued(job, {"weight_bits": 3}, {"weight_bits": 4})
    same = {k: torch.equal(parent[k], child[k]) for k in parent if k.endswith("step_size")}
    assert same["linear.weight_quantizer.step_size"]  # 8 bits in both
    assert not same["layer1.0.conv1.weight_quantizer.step_size"]
    assert any("the others are calibrated anew" in event for event in events)


def test_a_parent_of_an_earlier_version_which_says_no_bits_is_calibrated_anew(job, tmp_path):
    model, feed = first_values(job)
    state = {k: v[:2] if k.endswith("_extra_state") else v for k, v in model.state_dict().items()}
    torch.save(state, tmp_path / "old.pt")
    plain = build_on_device("resnet8", feed)
    parent_steps, _ = load_weights(plain, tmp_path / "old.pt", model_name="resnet8")
    fresh = quantize_model(plain, tiny(), feed.input_shape)
    notes = load_step_sizes(fresh, parent_steps)
    assert notes[0].startswith("0 of ")
    assert not any(quantizer.calibrated for quantizer in quantizers(fresh).values())


def test_a_glob_that_matches_nothing_ends_a_run_with_one_line(job):
    recipe = tiny(quant={"overrides": {"stem": {"weight_bits": 8}}})
    with pytest.raises(UsageError, match=r"resnet8 cannot be quantized: the override `stem` match"):
        run(recipe, job())


def test_a_teacher_of_another_number_of_classes_ends_a_run_before_its_first_step(job, tmp_path):
    from lsqctl.models.factory import build_model

    teacher = tmp_path / "hundred.pt"
    torch.save(build_model("resnet8", num_classes=100, in_channels=1).state_dict(), teacher)
    recipe = tiny(distill={"teacher": "hundred.pt"})
    made = replace(job(), inputs={"distill.teacher": teacher})
    with pytest.raises(DataError, match=r"hundred\.pt into resnet8: trained for 100 classes, and"):
        run(recipe, made)
    assert resume_point(made.run_dir)[0] is None


class Backwards(nn.Module):
    """Registers its layers in another order than it calls them."""

    def __init__(self):
        super().__init__()
        self.head, self.body, self.stem = nn.Linear(4, 10), nn.Conv2d(4, 4, 1), nn.Conv2d(1, 4, 3)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def test_a_run_finds_its_first_and_last_layer_by_executing_the_network():
    bits = {"weight_bits": 2, "act_bits": 2, "first_weight_bits": 8, "last_weight_bits": 4}
    layers = quantized_layers(quantize_model(Backwards(), tiny(quant=bits), (1, 8, 8)))
    found = {name: layer.weight_quantizer.spec.bits for name, layer in layers.items()}
    assert found == {"stem": 8, "body": 2, "head": 4}
