"""Edges of one accumulator: what is said of every input holds for each reachable accumulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

from lsqctl.deploy.certificate import (
    Requantization,
    _finest_factors,
    _reproduces,
    certify,
    fit,
    is_pair_safe,
    pair_bounds,
    proofs,
    staircase,
)
from lsqctl.deploy.exact import ExactForm
from lsqctl.deploy.network import Edge
from lsqctl.deploy.onnx_graph import write_onnx
from lsqctl.deploy.runtime import open_session, run_session
from lsqctl.deploy.settle import settle
from lsqctl.deploy.sums import _integers as sum_integers
from lsqctl.quant.arithmetic import Grid, IntegerLayer
from tests.conftest import fewer
from tests.deploy.networks import Chain, compared, exported, images, prepared, traced


def edge_through(*operations) -> Edge:
    """An edge whose codes pass through operations of torch."""
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    return Edge("edge", "layer", tuple(graph.call_function(one, (x,)) for one in operations))


RELU, RELU6 = torch.ops.aten.relu.default, torch.ops.aten.relu6.default


@st.composite
def stairs(draw):
    """A layer of four channels with 2 to 4 bits, an edge behind it and its staircase."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    bits, signed, through = (
        draw(st.integers(2, 4)),
        draw(st.booleans()),
        draw(st.sampled_from([(), (RELU,), (RELU6,)])),
    )
    half = 1 << bits - 1
    codes = torch.randint(-half, half, (4, 30), generator=generator).to(torch.int8)
    offset = torch.tensor(-0.3) if draw(st.booleans()) else None
    bounds = (-half, half - 1) if signed else (0, 2 * half - 1)
    grid = Grid(torch.tensor(0.37), offset, *bounds)
    scale = torch.randn(4, generator=generator) * 0.02
    scale[0] = scale[0] if draw(st.booleans()) else 0  # a gain of zero: one code for all inputs
    shift = torch.randn(4, generator=generator)
    layer = IntegerLayer("layer", replace(grid, step=torch.tensor(0.5)), codes, bits, scale, shift)
    return staircase(edge_through(*through), layer, grid)


def every_code(one):
    """All reachable u (O, U), whether each is reachable, and the reference's code of it."""
    u = np.arange(one.lowest.min(), one.highest.max() + 1)[None].repeat(len(one.lowest), 0)
    reachable = (u >= one.lowest[:, None]) & (u <= one.highest[:, None])
    accumulators = torch.from_numpy((u * one.direction[:, None]).T.astype(np.float32))
    codes = one.grid.codes(one.edge.through(one.layer.outputs(accumulators))).numpy().T
    return u, reachable, codes.astype(int)


@given(stairs())
def test_thresholds_are_those_of_a_walk_over_every_reachable_accumulator(one):
    u, reachable, codes = every_code(one)
    assert reachable.sum() == one.n_accumulators
    found = one.first_code + (u[:, :, None] >= one.thresholds[:, None]).sum(-1)
    assert (found == codes)[reachable].all()


@given(stairs())
def test_integers_that_fit_give_every_reachable_accumulator_its_code(one):
    u, reachable, codes = every_code(one)
    fitted, integers = fit(one)
    found = integers.codes(u * one.direction[:, None])
    right = ((found == codes) | ~reachable).all(1)
    assert (right >= fitted).all()


@given(stairs())
def test_no_reachable_value_is_closer_to_a_border_between_codes_than_the_margin(one):
    u, reachable, _ = every_code(one)
    values = one.values(u)
    inside = one.inside[:, None] & reachable[..., None]
    distances = np.where(inside, np.abs(values[..., None] - one.ties), np.inf).min(
        (1, 2), initial=np.inf
    )
    margins = np.where(one.inside, np.minimum(*map(np.abs, one.distances())), np.inf).min(
        1, initial=np.inf
    )
    np.testing.assert_allclose(margins, distances, rtol=1e-6)


@given(stairs(), st.integers(-3, 3))
def test_integers_are_called_right_exactly_where_a_walk_over_all_accumulators_says_so(one, moved):
    u, reachable, codes = every_code(one)
    _, integers = fit(one)
    biases = integers.biases + moved * integers.factors * one.direction
    integers = replace(integers, biases=biases)
    right = ((integers.codes(u * one.direction[:, None]) == codes) | ~reachable).all(1)
    assert (_reproduces(one, integers, np.arange(4)) == right).all()


def small_layer(codes, *, scale=0.0, highest=15):
    grid = Grid(torch.tensor(0.5), None, 0, highest)
    scales, shifts = torch.full((len(codes),), scale), torch.full((len(codes),), 1.0)
    return IntegerLayer("layer", grid, codes.to(torch.int8), 4, scales, shifts)


def test_integers_that_pass_32_bits_are_not_called_right():
    layer = small_layer(torch.ones(1, 8))
    one = staircase(edge_through(RELU), layer, layer.grid)  # of the code 2, whatever comes in
    for bias, right in (((1 << 31) - 1 - 120, True), ((1 << 31) - 120, False)):
        multiplier = np.array([2 / bias], np.float32)
        integers = Requantization(np.array([1]), np.array([bias]), multiplier, 0, 15)
        assert (integers.codes(np.arange(121)[None]) == 2).all()
        assert _reproduces(one, integers, np.arange(1)).tolist() == [right]


def test_finer_weights_stay_bytes_and_no_pair_of_products_passes_16_bits():
    codes = torch.tensor([[2, 2, -2, -2], [1, 0, 0, 0], [-8, 0, 0, 0], [7, 0, 0, 0]])
    assert _finest_factors(small_layer(codes)).tolist() == [63, 127, 16, 18]
    assert _finest_factors(small_layer(codes, highest=255)).tolist() == [32, 127, 16, 18]


def test_a_code_that_the_largest_accumulator_alone_reaches_has_its_threshold():
    layer = small_layer(torch.ones(1, 1), scale=0.5 * 2.51 / 15)
    layer = replace(layer, shift=torch.zeros(1))
    one = staircase(edge_through(RELU), layer, layer.grid)
    assert (int(one.highest[0]), one.thresholds[0, :3].tolist()) == (15, [3, 9, 15])
    assert one.inside[0].tolist() == [True] * 3 + [False] * 12


def test_any_two_products_of_one_sign_may_be_added_and_codes_count_from_the_smallest():
    layer = small_layer(torch.tensor([[[[3, -1]], [[2, 5]]]]))  # two channels, a row of two
    layer = replace(layer, grid=Grid(torch.tensor(0.5), None, -2, 5))
    assert pair_bounds(layer).tolist() == [7 * (3 + 5)]
    assert pair_bounds(replace(layer, weight_codes=-layer.weight_codes)).tolist() == [7 * (3 + 5)]
    alone = replace(layer, weight_codes=torch.tensor([[4], [-6]], dtype=torch.int8))
    assert pair_bounds(alone).tolist() == [7 * 4, 7 * 6]
    byte = replace(alone, grid=Grid(torch.tensor(0.5), None, 0, 255))
    safe, unsafe = ([[64, -64, 64, -1]], [[64, -64, 65, -1]])
    for codes, expected in ((safe, True), (unsafe, False)):
        layer = replace(byte, weight_codes=torch.tensor(codes, dtype=torch.int8))
        assert is_pair_safe(layer) is expected
    layer = replace(byte, weight_codes=torch.tensor([[8, 8], [-8, -8]], dtype=torch.int8))
    assert is_pair_safe(layer, np.array([8, 8]))
    assert not is_pair_safe(layer, np.array([8, 9]))


def test_of_a_sum_with_padding_the_margin_is_that_of_the_padded_channels():
    layer = replace(small_layer(torch.ones(3, 8), scale=0.5), shift=torch.tensor([0.25, 0.3, 1]))
    one = staircase(edge_through(RELU), layer, layer.grid)
    assert one.margins() == pytest.approx([0, 0.1, 0.5], abs=1e-6)
    some = replace(one, edge=replace(one.edge, channels=(1, 2)))
    assert some.margins() == pytest.approx([np.inf, 0.1, 0.5], abs=1e-6)


def test_a_layer_of_many_channels_is_fitted_by_the_block_and_each_integer_is_its_channel_s():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-8, 8, (300, 20), generator=generator).to(torch.int8)
    scale, shift = torch.randn(2, 300, generator=generator) * torch.tensor([[0.02], [1]])
    grid = Grid(torch.tensor(0.5), None, 0, 15)
    layer = IntegerLayer("layer", grid, codes, 4, scale, shift)
    one = staircase(edge_through(RELU), layer, replace(grid, step=torch.tensor(0.37)))
    u, reachable, codes = every_code(one)
    fitted, integers = fit(one)
    right = ((integers.codes(u * one.direction[:, None]) == codes) | ~reachable).all(1)
    assert (right >= fitted).all()
    assert fitted.sum() > 290


def test_onnxruntime_rounds_as_the_proof_says():
    """Over 65,536 accumulators of eight channels, negative multipliers and ties among them."""
    generator = np.random.default_rng(0)
    multipliers = (generator.choice([-1, 1], 8) * generator.uniform(1e-4, 3e-3, 8)).astype("f4")
    multipliers[:2] = 0.5, -(2.0**-7)  # whose products lie on ties
    biases = generator.integers(-20_000, 20_000, 8)
    first, second = np.meshgrid(np.arange(256), np.arange(256))
    codes = np.stack([first, second])[None].astype("u1")
    weight = np.tile(np.array([1, 127], "i1")[None, :, None, None], (8, 1, 1, 1))
    found = run_session(open_session(_one_convolution(weight, multipliers, biases)), codes)["y"]
    accumulators = (first + 127 * second)[None].repeat(8, 0)
    scaled = (accumulators + biases[:, None, None]).astype("f4") * multipliers[:, None, None]
    expected = np.rint(scaled.clip(-8, 247)) + 8
    assert (found[0] == expected).all()
    assert len(np.unique(found)) == 256


def _one_convolution(weight, multipliers, biases) -> bytes:
    constants = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "eight": np.uint8(8),
        "w": weight,
        "m": multipliers,
        "no": np.int8(0),
        "b": biases.astype("i4"),
    }
    names = ["images", "one", "zero", "w", "m", "no", "one", "eight", "b"]
    body = helper.make_graph(
        [helper.make_node("QLinearConv", names, ["y"])],
        "one",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, None)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 21)
    return helper.make_model(body, opset_imports=[opset], ir_version=10).SerializeToString()


KINDS = {
    "w4a4": {},
    "w3a2 a step a channel, signed, offset": {
        "weight_bits": 3,
        "act_bits": 2,
        "per_channel": True,
        "act_signed": "signed",
        "act_offset": "learned",
    },
}


def chain_of(**spec):
    torch.manual_seed(0)
    return traced(prepared(Chain(), **spec))


@pytest.fixture(scope="module", params=fewer(KINDS, 1))
def chain(request):
    return chain_of(**KINDS[request.param])


def test_of_layers_one_behind_another_edges_are_proved_and_every_code_is_equal(chain):
    certificates = {one.edge.name: one for one in certify(chain)}
    finite = {name: one.edge.source for name, one in certificates.items() if one.edge.finite}
    assert finite == {"conv2": "conv1", "conv3": "conv2", "linear2": "linear1"}
    proved = {name for name, one in certificates.items() if one.proved}
    assert proved >= {"conv2", "conv3"}  # the last layer's input has 255 thresholds
    assert certificates["conv1"].edge.reason == "div stands between"
    assert certificates["linear1"].edge.reason == "flatten stands between"
    model, _ = write_onnx(exported(chain), ExactForm(chain, proofs=proofs(certify(chain))), {})
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("QLinearConv") == len(proved)
    assert operators.count("Relu") == 1 + ("linear2" not in proved)  # one before the flattening
    assert "ConvInteger" not in operators
    counts = compared(chain, images(16))
    assert counts.equal, counts.first_differences


class Pooled(nn.Module):
    """(B, 3, 8, 8) to (B, 5): maxima over windows on both sides of a ReLU, one beyond the edge."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.conv3 = nn.Conv2d(6, 5, 2)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 3, 2, 1)
        x = F.relu(F.max_pool2d(self.conv2(x), 3, 2, ceil_mode=True))
        return self.conv3(x).flatten(1)


@pytest.mark.slow
def test_maxima_over_windows_are_taken_of_codes_and_leave_the_edge_to_its_layer():
    network = traced(prepared(Pooled(), last_act_bits=4))
    certificates = certify(network)
    assert [one.edge.source for one in certificates] == [None, "conv1", "conv2"]
    assert [one.proved for one in certificates] == [False, True, True]
    form = ExactForm(network, proofs=proofs(certificates))
    nodes = write_onnx(exported(network), form, {})[0].graph.node
    operators = [node.op_type for node in nodes]
    assert (operators.count("MaxPool"), operators.count("QLinearConv")) == (2, 2)
    assert operators.count("QuantizeLinear") == 1  # of the image: all else is bytes
    assert compared(network, images(16)).equal


def test_an_edge_that_others_read_or_that_is_a_sum_says_so():
    reasons = {one.edge.name: one.edge.reason for one in certify(traced(prepared()))}
    assert reasons["conv2"] == reasons["shortcut"] == "others read conv1, too"
    assert reasons["conv3"] == "add stands between"
    assert reasons["linear"] == "avg_pool2d stands between"


def test_with_residual_bits_both_summands_are_proved_and_where_integers_do_not_fit_floats_stay():
    network = traced(prepared(residual_bits=8))
    proved = {one.edge.name for one in certify(network) if one.proved}
    assert proved == {"residual_quantizers.branch", "residual_quantizers.shortcut"}
    assert compared(network, images(8)).equal
    wide = chain_of(weight_bits=8, act_bits=8)
    partly = next(one for one in certify(wide) if one.edge.finite and not one.proved)
    assert 0 < partly.n_fitted < partly.n_channels
    assert compared(wide, images(8)).equal


class Summed(nn.Module):
    """(B, 3, 8, 8) to (B, 5): one residual addition, both of whose inputs may be quantized."""

    residual_inputs = ("conv2", "shortcut")

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
        self.shortcut, self.conv3 = nn.Identity(), nn.Conv2d(6, 5, 1)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        return self.conv3(F.relu(self.conv2(x) + self.shortcut(x))).mean((2, 3))


@pytest.mark.parametrize("spec", [{}, {"act_offset": "learned"}], ids=["no offset", "offset"])
def test_integers_give_a_sum_of_codes_its_code_for_every_pair(spec):
    network = traced(prepared(Summed(), residual_bits=8, last_act_bits=4, **spec))
    (certificate,) = [one for one in certify(network) if one.edge.summands]
    assert (certificate.edge.name, certificate.proved) == ("conv3", True)
    grids = [network.grid(name) for name in (*certificate.edge.summands, "conv3")]
    codes = [np.arange(one.quant_min, one.quant_max + 1) for one in grids[:2]]
    assert certificate.n_accumulators == len(codes[0]) * len(codes[1]) == 65_536
    step, offset = ([np.float32(one.step) for one in grids], [one.offset for one in grids])
    first, second = (
        c.astype("f4") * s + np.float32(0 if o is None else o)
        for c, s, o in zip(codes, step, offset, strict=False)
    )
    values = np.maximum(first[:, None] + second, np.float32(0))
    values = values - np.float32(0 if offset[2] is None else offset[2])
    expected = np.rint((values / step[2]).clip(grids[2].quant_min, grids[2].quant_max))
    integers = certificate.sum_of_codes
    m1, m2 = integers.multipliers
    total = (m1 * codes[0][:, None] + m2 * codes[1] + integers.bias) >> integers.shift
    found = total.clip(integers.first_code, integers.last_code)
    assert (found == expected).all()
    assert len(np.unique(found)) > 4
    assert 0 < certificate.margin < 0.01


@pytest.mark.parametrize(("step", "fits"), [(2_000.0, True), (20_000.0, False)])
def test_integers_of_a_sum_fit_in_32_bits_or_there_are_none(step, fits):
    grids = tuple(Grid(torch.tensor(one), None, 0, 255) for one in (step, 0.5, 0.5))
    codes = [torch.arange(256).float()] * 2
    values = grids[0].values(codes[0])[:, None] + grids[1].values(codes[1])
    found = sum_integers(grids, codes, grids[2].codes(values).double(), (0, 255))
    assert (found is not None) == fits


def test_a_bias_on_a_tie_is_moved_off_it_and_the_reference_s_codes_stay():
    network = chain_of()
    layer, edge = network.layers["conv2"], network.traced_edges()[2]
    grid = network.grid(edge.name)
    _, above = staircase(edge, layer, grid).distances()
    channel = int(above.min(1).argmin())
    shift = layer.shift.double()
    shift[channel] -= (above[channel].min() - 1e-7) * float(grid.step)
    tied = replace(layer, shift=shift.float())
    network = replace(network, layers={**network.layers, "conv2": tied})
    settled, moves = settle(network)
    (move,) = [one for one in moves if one.layer == "conv2"]
    assert (move.channel, move.edge) == (channel, "conv3")
    assert move.margin_before < 1e-6 < 1e-5 < move.margin_after
    assert all(abs(one.by) <= 2e-5 for one in moves)
    moved = float(settled.layers["conv2"].shift[channel] - tied.shift[channel])
    assert moved == pytest.approx(move.by * float(grid.step), rel=0.1)
    before, after = (staircase(edge, one.layers["conv2"], grid) for one in (network, settled))
    assert (before.thresholds == after.thresholds).all()
    others = np.arange(8) != channel
    assert torch.equal(settled.layers["conv2"].shift[others], tied.shift[others])


def test_where_the_shortcut_is_padding_one_layer_decides_a_channel_of_a_sum():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
            self.conv3 = nn.Conv2d(8, 8, 1)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            x = self.conv1(x)
            x = self.conv2(x) + F.pad(x, (0, 0, 0, 0, 1, 3))
            return self.head(self.conv3(x.relu()).mean((2, 3)))

    edges = {edge.name: edge for edge in traced(prepared(Block())).traced_edges()}
    assert (edges["conv3"].source, edges["conv3"].channels) == ("conv2", (0, 5, 6, 7))
    assert edges["conv3"].reason == "add stands between"
    assert edges["conv2"].source == "conv1"
    assert edges["conv2"].reason == "others read conv1, too"
