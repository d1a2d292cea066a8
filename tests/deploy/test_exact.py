"""The exact form: a file whose codes are the integer reference's, whatever the network."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn
from torch.nn import functional as F

from lsqctl.deploy.certificate import certify, is_pair_safe, proofs
from lsqctl.deploy.checking import FakeQuantized, FloatComparison, reference_answers
from lsqctl.deploy.exact import ExactForm
from lsqctl.deploy.onnx_graph import write_onnx
from lsqctl.deploy.tracing import trace
from lsqctl.errors import DataError
from lsqctl.models.factory import build_model
from lsqctl.quant import LayerOverride, QuantSpec, prepare, quantized_layers
from lsqctl.quant.arithmetic import pad_codes
from tests.conftest import FULL, fewer
from tests.deploy.networks import (
    EVEN,
    PIXELS,
    Chain,
    Checker,
    Everything,
    Windows,
    base,
    compared,
    exported,
    images,
    normalized,
    prepared,
    steep,
    traced,
)

KINDS = {
    "w4a4, residual 8": {"residual_bits": 8},
    "w2a2 a step a channel, narrow signed": {
        "weight_bits": 2,
        "act_bits": 2,
        "per_channel": True,
        "narrow_range": True,
        "act_signed": "signed",
    },
    "w8a8 offset": {
        "weight_bits": 8,
        "act_bits": 8,
        "act_offset": "learned",
        "act_signed": "unsigned",
    },
    "mixed, some half float": {
        "overrides": {
            "conv2": LayerOverride(weight_bits=5, act_bits=7),
            "shortcut": LayerOverride(weight_bits=4, act_bits=32),
            "conv3": LayerOverride(weight_bits=32, act_bits=4),
        }
    },
}
if FULL:
    KINDS |= {
        "w3a4": {"weight_bits": 3},
        "w3a3 residual 4 offset": {
            "weight_bits": 3,
            "act_bits": 3,
            "residual_bits": 4,
            "act_offset": "learned",
        },
    }


@pytest.fixture(scope="module", params=fewer(KINDS, 3), ids=str)
def network(request):
    model = prepared(**KINDS[request.param])
    return model, traced(model)


def test_every_code_and_every_bit_of_the_logits_is_the_reference_s(network):
    _, reference = network
    counts = compared(reference, images(16))
    assert counts.equal, counts.first_differences
    assert counts.n_codes > 16 * 100 * len(reference.layers)
    assert compared(reference, images(3), plain=True).equal


def test_the_reference_gives_the_product_s_codes_but_where_fp32_rounds(network):
    model, reference = network
    expected, found = {}, {}
    reference(images(16), lambda edge, codes: expected.update({edge: codes}))
    hooks = []
    for name, layer in quantized_layers(model).items():
        if name in reference.layers:
            watch = _watch(found, name)
            hooks.append(layer.input_quantizer.register_forward_pre_hook(watch))
    with torch.no_grad():
        model(normalized(images(16)))
    for hook in hooks:
        hook.remove()
    assert found
    for name, codes in found.items():
        ours = expected[name]
        if ours.shape != codes.shape:  # with an offset the product pads before it quantizes
            layer = reference.layers[name]
            ours = pad_codes(ours, layer.window, layer.grid.zero_code)
        assert (ours != codes).float().mean() < 1e-3, name


def _watch(found, name):
    def hook(quantizer, inputs):
        found[name] = quantizer.codes(inputs[0]).float()

    return hook


@pytest.mark.parametrize("spec", [{}, KINDS["w8a8 offset"]], ids=["w4a4", "offset"])
def test_what_the_trained_network_does_otherwise_begins_at_ties_and_what_another_does_not(
    spec,
):
    model = prepared(**spec)
    network = base() if not spec else traced(model)
    reference = reference_answers(network, images(32))
    trained = FloatComparison(FakeQuantized(model, network, PIXELS), network)
    trained.add(images(32), reference, None)
    assert trained.counts.n_codes == sum(codes.size for codes in reference.codes.values())
    assert (trained.counts.furthest_from_tie or 0) < 1e-4
    with torch.no_grad():
        model.norm1.bias += 0.05
    other = FloatComparison(FakeQuantized(model, network, PIXELS), network)
    other.add(images(32), reference, None)
    assert other.counts.n_beginnings > 100
    assert other.counts.furthest_from_tie > 0.01


class Averaged(nn.Module):
    """(B, 3, 8, 8) to (B, 60): means over the image and over its quarters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 1)

    def forward(self, x):
        x = self.conv(x)
        return torch.cat([x.mean((-1, 2)), F.adaptive_avg_pool2d(x, 2).flatten(1)], 1)


def test_means_over_images_are_summed_row_by_row_in_the_file_as_in_the_reference():
    network = traced(prepared(Averaged()))
    values = network.layers["conv"](normalized(images(9))).numpy()
    quarters = [values[:, :, i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4)]
    whole, *parts = (_mean_by_hand(one) for one in (values, *quarters))
    expected = np.concatenate([whole, np.stack(parts, 2).reshape(9, -1)], 1)
    assert (network(images(9)).numpy() == expected).all()
    assert compared(network, images(9)).equal


def _mean_by_hand(window):
    numbers = window.reshape(*window.shape[:2], -1)
    total = numbers[..., 0]
    for position in range(1, numbers.shape[-1]):
        total = total + numbers[..., position]
    return total / np.float32(numbers.shape[-1])


def test_threads_and_batches_change_nothing():
    reference = base()
    assert compared(reference, images(9), threads=2).equal
    assert compared(reference, images(1)).equal
    together = reference(images(7))
    one_by_one = torch.cat([reference(image[None]) for image in images(7)])
    assert torch.equal(together, one_by_one)


def test_no_integer_layer_computes_in_float():
    network = base()
    for plain in (False, True):
        form = ExactForm(network, plain, proofs(certify(network)))
        model, _ = write_onnx(exported(network), form, {})
        operators = {node.op_type for node in model.graph.node}
        assert not operators & {"Conv", "MatMul", "Gemm", "BatchNormalization"}
        domains = {node.domain for node in model.graph.node}
        assert domains == ({""} if plain else {"", "com.microsoft"})


def test_weights_of_four_bits_take_four_bits():
    network = base()
    model, _ = write_onnx(exported(network), ExactForm(network), {})
    packed = [t for t in model.graph.initializer if t.data_type == TensorProto.INT4]
    assert len(packed) == 3  # conv2, shortcut and conv3; the first and the last have 8
    assert sum(len(t.raw_data) for t in packed) == (8 * 9 + 8 * 8 + 16 * 8 * 9) // 2


def test_the_same_network_gives_the_same_bytes_without_a_trace_of_where_it_was_made():
    files = []
    for network in (base(), traced(prepared())):
        model, _ = write_onnx(exported(network), ExactForm(network), {"run": "x"})
        files.append(model.SerializeToString(deterministic=True))
    assert files[0] == files[1]
    assert b"site-packages" not in files[0]
    assert b"tests" not in files[0]


def test_a_changed_weight_and_an_integer_bias_are_found_and_the_first_place_is_named():
    network = base()
    model, taps = write_onnx(exported(network), ExactForm(network), {})
    broken = copy.deepcopy(model)
    _change_first(broken, TensorProto.INT8, lambda codes: codes + np.eye(*codes.shape, dtype="i1"))
    checker = Checker(network, broken.SerializeToString(), taps)
    checker.add(images(4))
    first = checker.counts.first_differences[0]
    assert (first.image, first.edge) == (0, "conv2")
    assert first.expected != first.found
    assert checker.counts.n_images_differing == 4
    coarse = copy.deepcopy(model)
    _round_shifts(coarse)
    checker = Checker(network, coarse.SerializeToString(), taps)
    checker.add(images(16))
    assert checker.counts.n_codes_differing > 0


def _change_first(model, data_type, change):
    tensor = next(
        t for t in model.graph.initializer if t.data_type == data_type and len(t.dims) > 1
    )
    changed = change(numpy_helper.to_array(tensor))
    tensor.CopyFrom(numpy_helper.from_array(changed.astype("i1"), tensor.name))


def _round_shifts(model):
    """Put every shift on whole accumulator units, as files with integer biases have them."""
    arrays = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMulIntegerToFloat":
            scale, shift = (numpy_helper.to_array(arrays[node.input[i]]) for i in (3, 6))
            rounded = np.rint(shift / scale).astype("f4") * scale
            arrays[node.input[6]].CopyFrom(
                numpy_helper.from_array(rounded.astype("f4"), node.input[6])
            )


@pytest.mark.slow
def test_a_norm_is_folded_only_where_it_alone_reads_a_layer_that_is_called_once():
    network = base()
    operators = [
        node.op_type for node in write_onnx(exported(network), ExactForm(network), {})[0].graph.node
    ]
    assert operators.count("Mul") == 2  # the grouped layer's scale, and norm3

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.norm = nn.BatchNorm2d(3)
            self.head = nn.Linear(3, 5)
            self.norm.running_mean.normal_()

        def forward(self, x):
            x = self.norm(self.conv(self.norm(self.conv(x)).relu()))
            return self.head(x.mean((2, 3)))

    model = prepared(Shared())
    reference = traced(model)
    assert compared(reference, images(4)).n_codes_differing == 0
    torch.testing.assert_close(reference(images(4)), model(normalized(images(4))))


@pytest.mark.slow
def test_a_float_network_is_written_as_it_is():
    torch.manual_seed(0)
    model = Everything().eval()
    network = traced(model)
    assert network.layers == {}
    torch.testing.assert_close(network(images(2)), model(normalized(images(2))))
    assert compared(network, images(2)).n_codes == 0


def test_what_has_no_integer_form_or_no_step_size_is_refused_by_name():
    class Upsampler(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 4, 2)
            self.head = nn.Linear(4, 5)

        def forward(self, x):
            return self.head(self.up(x).mean((2, 3)))

    with pytest.raises(DataError, match=r"layer 'up' is a QuantConvTranspose2d"):
        traced(prepared(Upsampler()))
    uncalibrated = prepare(Everything(), QuantSpec())
    with pytest.raises(DataError, match=r"conv1\.input_quantizer has no step size yet"):
        traced(uncalibrated)


@pytest.mark.parametrize("plain", [False, True], ids=["microsoft", "plain"])
@pytest.mark.parametrize("kind", [Everything, Chain])
def test_products_that_some_processors_clip_are_written_as_those_that_none_does(plain, kind):
    """Without VNNI two products of bytes and signed bytes are added in 16 bits."""
    network = traced(steep(kind(), weight_bits=8, act_bits=8))
    assert not any(is_pair_safe(layer) for layer in network.layers.values())
    form = ExactForm(network, plain, proofs(certify(network)))
    model, taps = write_onnx(exported(network), form, {})
    kinds = [one.data_type for one in model.graph.initializer if len(one.dims) > 1]
    assert TensorProto.INT8 not in kinds
    assert kinds.count(TensorProto.UINT8) == len(network.layers)
    checker = Checker(network, model.SerializeToString(), taps)
    checker.add(255 - images(20) % 3)
    assert checker.counts.equal


def test_weights_whose_products_none_clips_keep_their_sign():
    network = traced(steep(Chain(), weight_bits=4, act_bits=8))
    safe = [is_pair_safe(layer) for layer in network.layers.values()]
    assert safe == [False, True, True, True, False]  # the first and the last have 8 bits
    model, _ = write_onnx(exported(network), ExactForm(network), {})
    kinds = [one.data_type for one in model.graph.initializer if len(one.dims) > 1]
    assert (kinds.count(TensorProto.UINT8), kinds.count(TensorProto.INT4)) == (2, 3)


FAMILIES = {
    "preact_resnet18": 32,
    "mobilenet_v2": 32,
    "shufflenet_v2_x0_5": 32,
    "regnet_y_400mf": 32,
    "swin_t": 32,
    "mixer_cifar": 32,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_of_each_family_every_quantized_layer_is_integer(name):
    size = FAMILIES[name]
    model = build_model(name, num_classes=10, in_channels=3, image_size=size)
    model = prepared(model, size=size)
    network = traced(model, size)
    assert {*network.layers} == {*quantized_layers(model)}
    counts = compared(network, images(3, size))
    assert counts.n_codes_differing <= counts.n_codes / 1e4


ONE_EACH = (  # the smallest of each family of torchvision
    "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 "
    "maxvit_t mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 "
    "resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11 vit_b_16 "
    "wide_resnet50_2"
).split()
SIZE_OF = {"inception_v3": 96, "maxvit_t": 224, "googlenet": 64, "alexnet": 64, "squeezenet1_1": 64}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:22 weights stay in float")  # tables that MaxViT adds
@pytest.mark.timeout(900)  # MaxViT takes images of 224 pixels
@pytest.mark.parametrize("name", ONE_EACH)
def test_of_torchvision_s_classifiers_every_quantized_layer_is_integer(name):
    size = SIZE_OF.get(name, 32)
    model = build_model(name, num_classes=10, in_channels=3, image_size=size)
    model = prepared(model, size=size)
    network = traced(model, size)
    assert {*network.layers} == {*quantized_layers(model)}
    counts = compared(network, images(1, size))
    assert counts.n_codes > 1000


@pytest.mark.slow
def test_images_that_are_normalized_already_may_come_in():
    model = prepared()
    network = trace(model, (3, 8, 8))
    assert compared(network, normalized(images(4))).equal


@EVEN
@pytest.mark.parametrize("spec", [{}, {"act_signed": "signed", "act_bits": 8}], ids=str)
def test_padding_by_side_and_dilation_by_axis_are_the_reference_s(spec):
    network = traced(prepared(Windows(), **spec))
    assert network.layers["even"].window.padding == ((0, 1), (1, 2))
    counts = compared(network, images(8))
    assert counts.equal, counts.first_differences


@EVEN
def test_a_chain_with_padding_by_side_is_proved_and_still_the_reference_s():
    class Proved(Windows):
        def forward(self, x):
            x = self.wide(self.even(x).relu()).relu()
            return self.head(self.both(x).relu().mean((2, 3)))

    network = traced(prepared(Proved()))
    assert {one.edge.name for one in certify(network) if one.proved} >= {"wide", "both"}
    counts = compared(network, images(8))
    assert counts.equal, counts.first_differences
