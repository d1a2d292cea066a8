"""Overrides give layers settings of their own by a glob on their names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsqctl.quant import (
    LayerOverride,
    QuantSpec,
    calibrate,
    model_cost,
    prepare,
    quantized_layers,
    unquantized_layers,
)


def bits(model):
    return {
        name: tuple(
            32 if one is None else one.spec.bits
            for one in (layer.weight_quantizer, layer.input_quantizer)
        )
        for name, layer in quantized_layers(model).items()
    }


def test_what_matches_has_settings_of_its_own_and_the_rest_the_models(small_net):
    prepare(small_net, QuantSpec(overrides={"3": LayerOverride(weight_bits=2, act_bits=8)}))
    assert bits(small_net) == {"0": (8, 8), "3": (2, 8), "6": (4, 4), "9": (8, 8)}


def test_a_later_glob_wins_key_by_key(small_net):
    one, other = LayerOverride(weight_bits=2, act_bits=2), LayerOverride(weight_bits=3)
    prepare(small_net, QuantSpec(overrides={"[36]": one, "6": other}))
    assert bits(small_net) == {"0": (8, 8), "3": (2, 2), "6": (3, 2), "9": (8, 8)}
    assert QuantSpec(overrides={"6": other, "[36]": one}).layer_specs("6")[0].bits == 2


def test_overrides_hold_for_the_first_and_the_last_layer_too(small_net):
    prepare(small_net, QuantSpec(overrides={"*": LayerOverride(weight_bits=5)}))
    assert bits(small_net) == {"0": (5, 8), "3": (5, 4), "6": (5, 4), "9": (5, 8)}


def test_a_star_spans_dots_and_32_bits_leave_a_layer_as_it_is():
    deep = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Sequential(nn.Linear(2, 2))))
    float_ = LayerOverride(weight_bits=32, act_bits=32)
    prepare(deep, QuantSpec(overrides={"1.*": float_}))
    assert list(bits(deep)) == ["0"]
    assert list(unquantized_layers(deep)) == ["1.0.0"]


@pytest.mark.parametrize(
    ("override", "tensor", "name", "value"),
    [
        (LayerOverride(per_channel=True), "weight", "per_channel", True),
        (LayerOverride(narrow_range=True), "weight", "quant_min", -7),
        (LayerOverride(init="mse"), "weight", "init", "mse"),
        (LayerOverride(percentile=90.0), "weight", "percentile", 90.0),
        (LayerOverride(act_signed="unsigned"), "input", "signed", False),
        (LayerOverride(act_offset="learned"), "input", "offset", "learned"),
    ],
)
def test_every_setting_of_an_override_reaches_its_tensor(small_net, override, tensor, name, value):
    prepare(small_net, QuantSpec(overrides={"6": override}))
    found = [getattr(small_net[at], f"{tensor}_quantizer").spec for at in (6, 3)]
    assert getattr(found[0], name) == value != getattr(found[1], name)


def test_an_override_may_open_the_sign_that_the_model_fixes(small_net):
    spec = QuantSpec(act_signed="unsigned", overrides={"0": LayerOverride(act_signed="auto")})
    prepare(small_net, spec)
    calibrate(small_net, torch.randn(4, 3, 8, 8))
    assert (small_net[0].input_quantizer.signed, small_net[3].input_quantizer.signed) == (1, 0)


def test_a_glob_that_matches_nothing_is_refused_with_the_nearest_names_and_nothing_changed():
    net = nn.ModuleDict({"conv1": nn.Conv2d(1, 1, 1), "conv2": nn.Conv2d(1, 1, 1)})
    with pytest.raises(ValueError, match=r"`conv3` matches no layer; the nearest are conv2, conv1"):
        prepare(net, QuantSpec(overrides={"conv3": LayerOverride(weight_bits=2)}))
    assert not quantized_layers(net)


@pytest.mark.parametrize("values", [{"weight_bits": 9}, {"act_bits": 1}, {"init": "x"}])
def test_bad_values_are_refused_where_the_spec_is_made(values):
    with pytest.raises(ValueError, match="must be"):
        QuantSpec(overrides={"*": LayerOverride(**values)})


def test_size_and_bit_operations_follow_the_overrides(small_net):
    spec = QuantSpec(overrides={"6": LayerOverride(weight_bits=2, act_bits=3, per_channel=True)})
    layer = next(
        one for one in model_cost(prepare(small_net, spec), (3, 8, 8)).layers if one.name == "6"
    )
    assert (layer.weight_bits, layer.act_bits, layer.bops) == (2, 3, 128 * 64 * 2 * 3)
    assert layer.size_bytes == 128 * 2 // 8 + 4 * (16 + 1) + 4 * 16  # codes, steps, bias


def test_only_overrides_may_quantize():
    off = dict.fromkeys(f"{p}{k}_bits" for p in ("", "first_", "last_") for k in ("weight", "act"))
    spec = QuantSpec(**dict.fromkeys(off, 32), overrides={"3": LayerOverride(weight_bits=4)})
    assert spec.quantized
    assert not QuantSpec(**dict.fromkeys(off, 32)).quantized
