"""What networks contain beside quantized layers: the same in every form, or refused by name."""

from __future__ import annotations

import re
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn
from torch.nn import functional as F

from lsqctl.deploy import Options
from lsqctl.deploy.checking import Comparison, reference_answers
from lsqctl.deploy.conversion import _opened
from lsqctl.deploy.folder import unlike_images
from lsqctl.deploy.forms import FORMS, WrittenForm
from lsqctl.deploy.forms.portable import in_openvino
from lsqctl.deploy.forms.qonnx import qonnx_answers
from lsqctl.deploy.network import Network
from lsqctl.deploy.onnx_graph import export
from lsqctl.deploy.source import FormSource
from lsqctl.errors import DataError, UsageError
from tests.deploy.networks import images, prepared, traced

PLAIN = ["codes", *(["c"] if shutil.which("cc") else [])]


class Between(nn.Module):
    """(B, 3, 8, 8) to (B, 5): whatever a test puts between its layers."""

    def __init__(self, between, *, channels: int = 8, head=None) -> None:
        super().__init__()
        self.between, self.head = between, head or (lambda x: x.mean((2, 3)))
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(channels, 8, 1)
        self.linear = nn.Linear(8, 5)
        self.row = nn.Parameter(torch.linspace(0.5, 1.5, 8).view(8, 1, 1))

    def forward(self, x):
        x = self.second(self.between(self, self.first(x)))
        return self.linear(self.head(x))


def network_of(between, *, channels: int = 8, head=None, **spec) -> Network:
    return traced(prepared(Between(between, channels=channels, head=head), **spec))


def assert_same_logits(network: Network, forms=PLAIN) -> None:
    """Each form, in its own runtime, answers as the reference does, to the bit."""
    source, pixels = FormSource(network, {}, plain=False), images(5)
    for form in forms:
        one = FORMS.load(form)()
        written = one.write(source)
        runner = next(one.runners(written, name=form, threads=1, trusted=True))
        comparison = Comparison(network)
        comparison.compare(reference_answers(network, pixels), runner.answer(pixels.numpy()))
        assert comparison.counts.equal, form


@pytest.mark.parametrize(
    "between",
    [
        lambda _, x: x.clamp(min=0.1),
        lambda _, x: torch.clamp(x, max=0.2).clamp_min(-0.1).clamp_max(0.1),
        lambda _, x: F.hardtanh(x, -0.1),
        lambda net, x: F.relu(x) * net.row.flatten()[:1],
        lambda _, x: nn.ZeroPad2d((1, 0, 2, 1))(x.relu()),
        lambda _, x: x.relu().view(x.shape[0], -1).view(-1, 8, 8, 8),
        lambda net, x: x.relu() * torch.cat([net.row[4:], net.row[:4]]),
    ],
    ids=["one end", "the other", "hardtanh", "one number", "padding", "views", "constants"],
)
def test_what_codes_and_c_take_is_what_torch_computes(between):
    assert_same_logits(network_of(between))


def test_an_end_that_is_a_tensor_is_no_operation_of_each_number_alone():
    network = network_of(lambda net, x: torch.clamp(x, min=net.row - 1))
    (edge,) = [one for one in network.traced_edges() if one.name == "second"]
    assert not edge.finite
    with pytest.raises(DataError, match="no place for clamp between values"):
        FORMS.load("codes")().write(FormSource(network, {}, plain=False))


def test_a_linear_layer_on_the_last_axis_of_images_is_refused_by_name():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.rows, self.head = (
                nn.Conv2d(3, 8, (8, 1)),
                nn.Linear(8, 1),
                nn.Linear(8, 5),
            )

        def forward(self, x):
            return self.head(self.rows(self.conv(x).relu()).flatten(1))

    with pytest.raises(DataError, match="the linear layer rows on more than one row"):
        FORMS.load("c")().write(FormSource(traced(prepared(Rows())), {}, plain=False))


@pytest.mark.parametrize(
    ("between", "channels"),
    [
        (lambda _, x: torch.cat([x, torch.zeros_like(x)], 1).relu(), 16),
        (lambda _, x: F.channel_shuffle(F.pixel_unshuffle(x, 2), 2).narrow(2, 1, 2), 32),
        (lambda _, x: F.interpolate(x.abs(), scale_factor=2).flip(3).swapaxes(2, 3), 8),
        (lambda _, x: F.dropout2d(torch.maximum(x, -x), training=False), 8),
    ],
    ids=["zeros", "shuffled", "enlarged", "the larger"],
)
def test_what_moves_or_chooses_values_leaves_the_promise_of_bits(between, channels):
    network = network_of(between, channels=channels)
    assert network.float_operations == []
    assert_same_logits(network, ["exact"])


class Headed(Between):
    """A network that gives what a test makes of its last layer's values."""

    def __init__(self, head) -> None:
        super().__init__(None, head=head)
        del self.linear

    def forward(self, x):
        return self.head(self.second(self.first(x)))


@pytest.mark.parametrize(
    ("head", "given"),
    [
        (lambda x: (x.mean((2, 3)), x.amax(3)), "(B, 8) and (B, 8, 8)"),
        (lambda x: {"logits": x.mean((2, 3))}, "(B, 8)"),
        (lambda x: x.mean(3), "(B, 8, 8)"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(head, given):
    said = f"this network gives {given}, not a tensor of logits (B, classes) alone"
    with pytest.raises(DataError, match=re.escape(said)):
        traced(prepared(Headed(head)))


@pytest.mark.parametrize(
    "head",
    [
        lambda x: x.amax((2, 3)),
        lambda x: F.adaptive_max_pool2d(x, 1).flatten(1),
        lambda x: F.adaptive_max_pool2d(x, 2).amax((2, 3), keepdim=True).squeeze(),
    ],
    ids=["over axes", "adaptive", "both"],
)
def test_a_maximum_over_images_is_one_over_windows(head):
    network = network_of(lambda _, x: x.relu(), head=head)
    assert {one.kind for one in FormSource(network, {}, plain=False).program.operations} >= {
        "max_pool"
    }
    assert_same_logits(network)


def test_openvino_takes_maxima_over_images_as_they_are():
    pytest.importorskip("openvino", reason="NO OPENVINO: pip install openvino")
    bits = {"first_weight_bits": 7, "last_weight_bits": 7}
    network = network_of(lambda _, x: x.relu(), head=lambda x: x.amax((2, 3)), **bits)
    written = FORMS.load("portable")().write(FormSource(network, {}, plain=False))
    found = in_openvino(written, name="it", threads=1).answer(images(5).numpy())
    assert not unlike_images(network(images(5)).numpy(), found.logits, bits=False).any()


def test_a_mean_that_is_divided_by_another_number_is_refused():
    with pytest.raises(DataError, match="avg_pool2d with divisor_override has no form"):
        network_of(lambda _, x: F.avg_pool2d(x, 2, divisor_override=3))


def test_what_torch_cannot_write_as_onnx_ends_in_one_line():
    with pytest.raises(
        DataError, match=r"cannot write this network as ONNX: .*adaptive_max_pool2d"
    ):
        export(network_of(lambda _, x: F.adaptive_max_pool2d(x, 3)))


def test_qonnx_s_own_exceptions_end_in_one_line():
    pytest.importorskip("qonnx", reason="NO QONNX: pip install qonnx")
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3])
        for name in ("images", "logits")
    ]
    nodes = [helper.make_node("Relu", ["images"], ["x"]), helper.make_node("No", ["x"], ["logits"])]
    model = helper.make_model(helper.make_graph(nodes, "it", ends[:1], ends[1:]))
    with pytest.raises(DataError, match=r"qonnx cannot run it\.onnx") as caught:
        qonnx_answers(model.SerializeToString(), "it.onnx")(np.zeros((1, 3), np.float32))
    assert "\n" not in str(caught.value)


def test_a_form_that_its_own_runtime_refuses_is_left_out_where_all_are_asked_for():
    broken = {"codes": WrittenForm(b"no codes at all")}
    with pytest.raises(DataError, match=r"model\.safetensors is no file of packed codes"):
        _opened(dict(broken), {}, Options(("codes",)))
    left_out: dict[str, str] = {}
    with pytest.raises(UsageError, match=r"no form can be written: model\.safetensors is no file"):
        _opened(dict(broken), left_out, Options(("all",)))
    assert [*left_out] == ["codes"]
