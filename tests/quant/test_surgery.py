"""``prepare`` swaps exactly the layers it should, in place, and tells what it left."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from lsqctl.quant import (
    QuantConv2d,
    QuantLinear,
    QuantSpec,
    calibrate,
    prepare,
    quantized_layers,
    quantizers,
    unquantized_layers,
)


def bits(layer):
    return layer.weight_quantizer.spec.bits, layer.input_quantizer.spec.bits


def test_layers_are_swapped_in_place_and_the_model_is_returned(small_net):
    parameters = dict(small_net.named_parameters())
    assert prepare(small_net, QuantSpec()) is small_net
    assert list(quantized_layers(small_net)) == ["0", "3", "6", "9"]
    after = dict(small_net.named_parameters())
    assert all(after[name] is parameter for name, parameter in parameters.items())


def test_first_and_last_have_bits_of_their_own(small_net):
    spec = QuantSpec(
        2, 3, first_weight_bits=4, first_act_bits=5, last_weight_bits=6, last_act_bits=7
    )
    layers = quantized_layers(prepare(small_net, spec))
    assert [bits(layer) for layer in layers.values()] == [(4, 5), (2, 3), (2, 3), (6, 7)]


def test_first_and_last_of_the_paper_are_8_bits(small_net):
    layers = quantized_layers(prepare(small_net, QuantSpec(weight_bits=2, act_bits=2)))
    assert [bits(layer) for layer in layers.values()] == [(8, 8), (2, 2), (2, 2), (8, 8)]


def test_a_layer_shared_in_two_places_is_swapped_once_and_stays_shared():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.Linear(4, 2))})
    prepare(model, QuantSpec())
    assert model["a"] is model["b"][0]
    assert list(quantized_layers(model)) == ["a", "b.1"]
    assert len(quantizers(model)) == 4


@pytest.mark.parametrize(
    ("layer", "twin"), [(nn.Conv2d(1, 2, 3), QuantConv2d), (nn.Linear(1, 2), QuantLinear)]
)
def test_a_model_that_is_itself_a_layer_is_returned_as_its_twin(layer, twin):
    prepared = prepare(layer, QuantSpec())
    assert type(prepared) is twin
    assert prepared.weight is layer.weight
    assert list(quantizers(prepared)) == ["input_quantizer", "weight_quantizer"]


def test_preparing_twice_is_refused(small_net):
    prepare(small_net, QuantSpec())
    with pytest.raises(ValueError, match="already prepared"):
        prepare(small_net, QuantSpec())


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(ValueError, match=r"no nn\.Conv2d or nn\.Linear"):
        prepare(nn.Sequential(nn.ReLU()), QuantSpec())


def test_a_layer_with_hooks_is_refused_by_name(small_net):
    small_net[3].register_forward_pre_hook(lambda *_: None)
    with pytest.raises(ValueError, match="'3' has hooks"):
        prepare(small_net, QuantSpec())


def test_32_bits_everywhere_leaves_the_model_as_it_is(small_net):
    names = ("weight_bits", "act_bits", "first_weight_bits", "first_act_bits")
    spec = QuantSpec(**dict.fromkeys((*names, "last_weight_bits", "last_act_bits"), 32))
    prepare(small_net, spec)
    assert quantized_layers(small_net) == {}


def test_layers_of_32_bits_are_left_and_said_to_be(small_net):
    prepare(small_net, QuantSpec(first_weight_bits=32, first_act_bits=32))
    assert list(quantized_layers(small_net)) == ["3", "6", "9"]
    assert list(unquantized_layers(small_net)) == ["0"]
    assert "32 bits" in unquantized_layers(small_net)["0"]


def test_weight_only_quantization_has_no_step_for_activations(small_net):
    prepare(small_net, QuantSpec(act_bits=32, first_act_bits=32, last_act_bits=32))
    assert all("weight" in name for name in quantizers(small_net))


def test_what_is_not_quantized_is_left_with_the_reason():
    class Scaled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    model = nn.ModuleDict(
        {
            "linear": nn.Linear(4, 4),
            "scaled": Scaled(4, 4),
            "deconv": nn.ConvTranspose3d(4, 4, 2),
            "attention": nn.MultiheadAttention(4, 2, kdim=3),
        }
    )
    with pytest.warns(UserWarning, match="3 weights stay in float: scaled, deconv, attention"):
        prepare(model, QuantSpec())
    left = unquantized_layers(model)
    assert list(left) == ["scaled", "deconv", "attention"]
    assert "Scaled does not compute as" in left["scaled"]
    assert "another width" in left["attention"]
    assert list(quantized_layers(model)) == ["linear"]


def test_preparing_draws_no_random_number(small_net):
    before = torch.get_rng_state()
    prepare(small_net, QuantSpec())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_float_checkpoint_maps_onto_the_prepared_model(small_net):
    state = {key: torch.rand_like(value.float()) for key, value in small_net.state_dict().items()}
    missing, unexpected = prepare(small_net, QuantSpec()).load_state_dict(state, strict=False)
    assert unexpected == []
    assert all("_quantizer." in key for key in missing)


def test_mobilenet_has_signed_inputs_where_no_relu_stands_before():
    model = prepare(torchvision.models.mobilenet_v2(width_mult=0.1, num_classes=4), QuantSpec())
    calibrate(model, torch.randn(4, 3, 64, 64))
    signed = {
        name for name, layer in quantized_layers(model).items() if layer.input_quantizer.signed
    }
    bottlenecks = {f"features.{i}.conv.0.0" for i in range(2, 18)} | {"features.18.0"}
    assert signed == {"features.0.0"} | bottlenecks
