"""Attention whose projections are used in functions: quantized all the same, nothing missed."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

from lsqctl.quant import (
    QuantSpec,
    calibrate,
    prepare,
    quantized_layers,
    quantizers,
    unquantized_layers,
)
from tests.conftest import fewer

W4A4 = QuantSpec(weight_bits=4, act_bits=4)
MASKS = {
    "none": {},
    "boolean": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1)},
    "additive": {"attn_mask": torch.linspace(-1, 1, 25).view(5, 5)},
    "by head": {"attn_mask": torch.linspace(-1, 1, 150).view(6, 5, 5)},
    "padding": {"key_padding_mask": torch.tensor([[0, 0, 0, 0, 1]] * 3, dtype=torch.bool)},
    "both": {
        "attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1),
        "key_padding_mask": torch.tensor([[0, 0, 0, 0, 1]] * 3, dtype=torch.bool),
    },
}


def without_quantizers(model: nn.Module) -> nn.Module:
    """Prepare a model and take the quantizers out, so that only its own arithmetic is left."""
    model = prepare(copy.deepcopy(model), W4A4)
    for layer in quantized_layers(model).values():
        layer.input_quantizer = layer.weight_quantizer = None
    return model


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("weights", ["none", "mean", "by head"])
def test_but_for_the_grid_attention_computes_what_torchs_does(mask, batch_first, weights):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
    x = torch.randn(3, 5, 8) if batch_first else torch.randn(5, 3, 8)
    how = {"need_weights": weights != "none", "average_attn_weights": weights == "mean"}
    expected = attention(x, x, x, **how, **MASKS[mask])
    found = without_quantizers(attention)(x, x, x, **how, **MASKS[mask])
    torch.testing.assert_close(found, expected)


def test_a_sequence_without_a_batch_is_taken_as_torch_takes_it():
    attention, x = nn.MultiheadAttention(8, 2), torch.randn(5, 8)
    torch.testing.assert_close(without_quantizers(attention)(x, x, x), attention(x, x, x))


def test_an_encoder_layer_in_evaluation_does_not_pass_the_quantizers_by():
    """Torch has a fused kernel for it, which reads the float weights."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    x = torch.randn(3, 5, 8)
    prepare(
        layer,
        QuantSpec(2, 2, first_weight_bits=2, first_act_bits=2, last_weight_bits=2, last_act_bits=2),
    )
    calibrate(layer, x)
    trained = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), trained)


def test_cross_attention_is_refused_when_it_is_met():
    attention = prepare(nn.MultiheadAttention(8, 2, batch_first=True), W4A4)
    x, memory = torch.randn(1, 5, 8), torch.randn(1, 4, 8)
    with pytest.raises(ValueError, match="cross-attention"):
        attention(x, memory, memory)


def test_an_attention_keeps_its_parameters_and_their_names():
    attention = nn.MultiheadAttention(8, 2)
    before = dict(attention.named_parameters())
    twin = prepare(attention, W4A4)
    after = dict(twin.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert all("_quantizer." in name for name in after.keys() - before.keys())
    clone = copy.deepcopy(twin)
    assert clone.in_proj.master_weight is clone.in_proj_weight
    assert clone.in_proj_weight is not twin.in_proj_weight


@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t"])
def test_but_for_the_grid_swin_computes_what_torchvisions_does(name):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=4).eval()
    x = torch.randn(2, 3, 40, 56)  # not a multiple of the window: padded, shifted, masked
    with torch.no_grad():
        torch.testing.assert_close(without_quantizers(model)(x), model(x))


@pytest.mark.parametrize("name", fewer(["vit_b_16", "swin_t", "swin_v2_t"], 1))
def test_every_weight_of_a_transformer_gets_a_gradient_and_every_step_too(name):
    torch.manual_seed(0)
    shape = {"image_size": 32} if name.startswith("vit") else {}
    model = prepare(torchvision.models.get_model(name, num_classes=4, **shape), W4A4)
    images = torch.randn(2, 3, 32, 32)
    calibrate(model, images)
    model.eval()(images).square().sum().backward()  # eval: no layer is dropped at random
    without = [key for key, one in model.named_parameters() if one.grad is None]
    assert without == []
    assert all(one.calibrated for one in quantizers(model).values())


class _EmptyOnMeta(TorchFunctionMode):
    """Weights take no memory; RegNet's widths, which it computes with tensors, stay real."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.empty:
            kwargs = kwargs | {"device": "meta"}
        return function(*args, **kwargs)


# Parameters of two dimensions or more that multiply nothing: they are added.
ADDED = ("pos_embedding", "class_token", "relative_position_bias_table", "layer_scale")
# ... or scale: one number a head.
SCALES = ("logit_scale",)


CLASSIFIERS = torchvision.models.list_models(module=torchvision.models)


@pytest.mark.parametrize("name", fewer(CLASSIFIERS, 10))
@pytest.mark.filterwarnings("default")
def test_every_weight_of_every_classifier_is_quantized_or_named_as_left(name):
    auxiliary = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    with _EmptyOnMeta():
        model = prepare(torchvision.models.get_model(name, weights=None, **auxiliary), W4A4)
    quantized = {id(layer.master_weight) for layer in quantized_layers(model).values()}
    left = unquantized_layers(model)
    steps = {id(one.step_size) for one in quantizers(model).values()}
    missed = [
        key
        for key, parameter in model.named_parameters()
        if parameter.dim() > 1
        and id(parameter) not in quantized | steps
        and key.rpartition(".")[0] not in left
        and key.rpartition(".")[2] not in ADDED + SCALES
    ]
    assert missed == []
    reasons = {
        key: reason for key, reason in left.items() if key.rpartition(".")[2] not in ADDED + SCALES
    }
    assert all("constant" in reason for reason in reasons.values()), reasons
