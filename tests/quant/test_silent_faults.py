"""What would give wrong numbers in silence is done right, or refused in one line."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lsqctl.models.heads import classifier_of
from lsqctl.quant import (
    LsqQuantizer,
    OscillationTracker,
    QuantSpec,
    TensorSpec,
    calibrate,
    clamp_step_sizes,
    collect_stats,
    lsq_fake_quantize,
    model_cost,
    param_groups,
    prepare,
    quantized_layers,
    quantizers,
    unquantized_layers,
)
from lsqctl.quant.torch_faults import avoid_unsafe_channels_last

W8A8 = QuantSpec(weight_bits=8, act_bits=8)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, a, b):
        return self.layer(a) + self.layer(b)


class Renamed(nn.Conv2d):
    """A subclass that computes as its base does."""


class Doubling(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


class BareWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.w = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return F.linear(self.layer(x), self.w)


def relative_error(actual, expected):
    return float((actual - expected).detach().norm() / expected.detach().norm())


def test_a_layer_used_twice_is_calibrated_on_both_of_its_inputs():
    model, a, b = Twice(), torch.randn(64, 8), 10 * torch.randn(64, 8)
    expected = model(a, b)
    calibrate(prepare(model, W8A8), [((a, b),)])
    assert relative_error(model(a, b), expected) < 0.1


def test_what_lies_behind_a_layer_used_twice_is_calibrated_on_what_it_meets():
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.Linear(8, 8), shared, nn.Linear(8, 4))
    with torch.no_grad():
        model[1].weight.mul_(3)
    x = torch.randn(64, 8)
    expected = model(x)
    calibrate(prepare(model, W8A8), x)
    assert relative_error(model(x), expected) < 0.1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            QuantSpec(
                2, 2, first_weight_bits=2, first_act_bits=2, last_weight_bits=2, last_act_bits=2
            ),
            "has 8 bits, .*demands 2 bits",
        ),
        (QuantSpec(8, 8, narrow_range=True), "demands 8 bits, an open sign, narrow range"),
        (QuantSpec(8, 8, act_signed="signed", act_offset="learned"), "learned offset"),
    ],
)
def test_a_state_of_another_grid_is_refused_in_one_line_that_names_both(spec, words):
    trained = prepare(nn.Sequential(nn.Linear(4, 4)), W8A8)
    calibrate(trained, torch.randn(8, 4))
    state = trained.state_dict()
    other = prepare(nn.Sequential(nn.Linear(4, 4)), spec)
    with pytest.raises(ValueError, match=words) as caught:
        other.load_state_dict(state, strict=spec.act_offset == "none")
    assert "\n" not in str(caught.value)
    assert not any(q.calibrated for q in quantizers(other).values())


def test_a_state_of_an_earlier_version_which_holds_no_grid_still_loads():
    quantizer = LsqQuantizer(TensorSpec(4, signed=None))
    old = {"step_size": torch.tensor(0.5), "_extra_state": torch.tensor([1, 0], dtype=torch.int8)}
    quantizer.load_state_dict(old)
    assert quantizer.calibrated
    assert quantizer.signed is False


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(3, 6, 3, padding=1, stride=2), (2, 3, 9)),
        (nn.ConvTranspose1d(3, 6, 3, stride=2, output_padding=1), (2, 3, 9)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, padding=1), (2, 4, 5, 5)),
        (Renamed(3, 6, 3, padding=1), (2, 3, 8, 8)),
    ],
)
@pytest.mark.parametrize("per_channel", [False, True])
def test_other_convolutions_and_subclasses_are_quantized_and_stay_close(layer, shape, per_channel):
    model, x = nn.Sequential(copy.deepcopy(layer)), torch.randn(*shape)
    expected = model(x)
    calibrate(prepare(model, QuantSpec(8, 8, per_channel=per_channel)), x)
    assert list(quantized_layers(model)) == ["0"]
    assert model(x).shape == expected.shape
    assert relative_error(model(x), expected) < 0.1


def test_each_weight_that_stays_float_is_named_once_in_a_warning_and_listed():
    model = nn.Sequential(
        nn.Embedding(5, 4),
        nn.LSTM(4, 4),
        Doubling(4, 4),
        parametrizations.orthogonal(nn.Linear(4, 4)),
        nn.Conv3d(1, 1, 1),
        BareWeight(),
    )
    with pytest.warns(UserWarning, match="6 weights stay in float: 0, 1, 2, 3, 4, 5.w;") as caught:
        prepare(model, QuantSpec())
    assert len(caught) == 1
    assert list(unquantized_layers(model)) == ["0", "1", "2", "3", "4", "5.w"]


def test_layers_that_their_settings_leave_in_float_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), QuantSpec(last_weight_bits=32))


def test_layers_of_one_weight_share_one_step_size():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    prepare(model, QuantSpec())
    assert model[0].weight_quantizer is model[1].weight_quantizer
    assert model[0].input_quantizer is not model[1].input_quantizer


def test_a_weight_of_two_layers_is_read_and_followed_once():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(8, 4)
    model[1].weight = model[0].weight
    calibrate(prepare(model, QuantSpec()), x)
    tracker = OscillationTracker(model)
    for _ in range(3):
        tracker.update()
    assert tracker.rates() == {"0.weight_quantizer": 0.0}
    assert [reading.name for reading in collect_stats(model, x)] == [
        "0.input_quantizer",
        "0.weight_quantizer",
        "1.input_quantizer",
    ]


def test_layers_of_one_weight_and_two_widths_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match=r"'0' and '1' share one weight, of 8 and of 4 bits"):
        prepare(model, QuantSpec())
    assert not quantizers(model)


def test_a_batch_norm_is_not_folded_into_a_calibrated_layer():
    model = prepare(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), QuantSpec()).eval()
    calibrate(model, torch.randn(2, 3, 4, 4))
    with pytest.raises(ValueError, match="fuse or replace weights before prepare"):
        fuse_conv_bn_eval(model[0], model[1])


def test_another_weight_is_not_put_into_a_calibrated_layer():
    model = prepare(nn.Sequential(nn.Linear(4, 4)), QuantSpec())
    calibrate(model, torch.randn(2, 4))
    with pytest.raises(ValueError, match="fuse or replace weights before prepare"):
        model[0].weight = nn.Parameter(torch.randn(4, 4))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("offset", ["none", "learned"])
def test_a_trace_with_gradients_computes_what_the_model_does(offset):
    spec = QuantSpec(
        4, 4, first_weight_bits=4, first_act_bits=4, act_signed="signed", act_offset=offset
    )
    model = prepare(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), spec)
    x, other = torch.randn(2, 3, 8, 8), 2 * torch.randn(2, 3, 8, 8)
    calibrate(model, x)
    traced = torch.jit.trace(model, x, check_trace=False)
    assert torch.equal(traced(other), model(other))


def test_the_clamp_works_where_all_step_sizes_are_frozen():
    model = prepare(nn.Sequential(nn.Linear(4, 4)), QuantSpec())
    calibrate(model, torch.randn(2, 4))
    for quantizer in quantizers(model).values():
        quantizer.step_size.requires_grad_(False)
    optimizer = torch.optim.SGD(param_groups(model, lr=0.1, weight_decay=0.0))
    clamp = clamp_step_sizes(optimizer, model)
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    assert clamp.clamped == {}


def test_a_layer_pruned_after_prepare_is_quantized_by_its_pruned_weight():
    model, x = prepare(nn.Sequential(nn.Linear(4, 4)), W8A8), torch.randn(8, 4)
    calibrate(model, x)
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    model(x).sum().backward()
    assert int((model[0].quantized_weight() == 0).sum()) >= 8
    assert model[0].weight_orig.grad is not None


def test_a_layer_parametrized_after_prepare_is_quantized_by_its_computed_weight():
    model, x = prepare(nn.Sequential(nn.Linear(4, 4)), W8A8), torch.randn(8, 4)
    calibrate(parametrizations.weight_norm(model[0]), x)
    assert torch.isfinite(model(x)).all()


@pytest.mark.parametrize("batch", [{"a": 0, "b": 1}, ((0, 1), "labels")])
def test_calibration_takes_several_inputs_by_name_and_by_position(batch):
    inputs = (torch.randn(4, 8), torch.randn(4, 8))
    data = dict(zip("ab", inputs, strict=True)) if isinstance(batch, dict) else (inputs, batch[1])
    model = prepare(Twice(), QuantSpec())
    calibrate(model, [data, data])
    assert all(q.calibrated for q in quantizers(model).values())


@pytest.mark.parametrize("data", [["images"], [{"a": "text"}], [({},)], [3]])
def test_a_batch_that_holds_no_inputs_is_refused_in_one_line(data):
    model = prepare(Twice(), QuantSpec())
    with pytest.raises(ValueError, match=r"^a batch for calibration is a tensor, .*$"):
        calibrate(model, data)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_layer_is_refused_by_name_before_anything_is_swapped():
    model = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(4))
    with pytest.raises(ValueError, match="layer '1' is lazy and has no shape yet"):
        prepare(model, QuantSpec())
    assert not quantizers(model)


def test_an_offset_that_is_not_in_use_asks_for_no_gradient_and_keeps_its_place():
    spec = QuantSpec(act_offset="learned")
    model = prepare(nn.Sequential(nn.Linear(4, 4)), spec)
    before = [g["names"] for g in param_groups(model, lr=0.1, weight_decay=0.0)]
    calibrate(model, torch.rand(8, 4))
    assert not model[0].input_quantizer.offset.requires_grad
    assert [g["names"] for g in param_groups(model, lr=0.1, weight_decay=0.0)] == before
    calibrate(model, torch.randn(8, 4), force=True)
    assert model[0].input_quantizer.offset.requires_grad


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.eye(3).to_sparse(), "layout torch.sparse_coo cannot be quantized"),
        (torch.empty(3, device="meta"), "meta device has no values"),
        (torch.ones(3, dtype=torch.complex64), "complex64 cannot be quantized"),
        (torch.ones(3, dtype=torch.bool), "bool cannot be quantized"),
        (torch.tensor([1.0, torch.nan]), "NaN or infinity"),
        (torch.tensor([1.0, -torch.inf]), "NaN or infinity"),
    ],
)
def test_a_tensor_that_gives_no_step_size_is_refused_at_once(x, words):
    for signed in (None, True):
        quantizer = LsqQuantizer(TensorSpec(4, signed=signed))
        with pytest.raises(ValueError, match=words):
            quantizer.calibrate(x)
        assert not quantizer.calibrated


@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_sparse_tensor_is_not_fake_quantized():
    with pytest.raises(ValueError, match="sparse_coo cannot be quantized"):
        lsq_fake_quantize(torch.eye(3).to_sparse(), torch.tensor(1.0), -2, 1)


@pytest.mark.filterwarnings("ignore")  # that exporter is deprecated
@pytest.mark.parametrize("offset", ["none", "learned"])
def test_the_legacy_export_to_onnx_computes_what_the_model_does(offset):
    runtime = pytest.importorskip("onnxruntime", reason="NOT COMPUTED: pip install onnxruntime")
    spec = QuantSpec(4, 4, act_signed="signed", act_offset=offset)
    model = prepare(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), spec)
    x, other = torch.randn(2, 3, 8, 8), 2 * torch.randn(2, 3, 8, 8)
    calibrate(model, x)
    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, dynamo=False, input_names=["x"])
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": other.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("signed", ["signed", "unsigned"])
def test_a_data_parallel_model_trains_where_an_offset_is_not_in_use(signed):
    spec = QuantSpec(4, 4, act_offset="learned", act_signed=signed)
    model = prepare(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), spec)
    calibrate(model, torch.rand(8, 4))
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        for _ in range(3):  # the second forward asks what the first left without a gradient
            parallel(torch.rand(8, 4)).sum().backward()
    finally:
        torch.distributed.destroy_process_group()


class Backwards(nn.Module):
    """Registers its layers in another order than they run in."""

    def __init__(self, *names):
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(4, 4))

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ("head", "body", "stem"),
            ["'stem' runs first, but 'head'", "'head' runs last, but 'stem'"],
        ),
        (
            ("head", "stem", "body"),
            ["'stem' runs first, but 'head'", "'head' runs last, but 'body'"],
        ),
        (("stem", "head", "body"), ["'head' runs last, but 'body'"]),
        (("stem", "body", "head"), []),
    ],
)
def test_a_layer_that_runs_first_or_last_without_its_bits_is_named_in_a_warning(names, said):
    spec = QuantSpec(weight_bits=2, act_bits=2, first_weight_bits=8, last_weight_bits=4)
    model = prepare(Backwards(*names), spec)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calibrate(model, torch.randn(16, 4))
    assert len(caught) == len(said)
    assert all(words in str(one.message) for words, one in zip(said, caught, strict=True))


@pytest.mark.parametrize("names", [("head", "body", "stem"), ("body", "head", "stem")])
def test_with_an_example_the_first_and_last_bits_are_of_the_layers_that_run_so(names):
    spec = QuantSpec(weight_bits=2, act_bits=2, first_weight_bits=8, last_weight_bits=4)
    images = torch.randn(16, 4)
    model = prepare(Backwards(*names), spec, images[:1])
    bits = {
        name: layer.weight_quantizer.spec.bits for name, layer in quantized_layers(model).items()
    }
    assert bits == {"stem": 8, "body": 2, "head": 4}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrate(model, images)


def test_the_order_of_layers_of_equal_bits_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrate(prepare(Backwards("head", "body", "stem"), W8A8), torch.randn(16, 4))


class ByName(nn.Module):
    """Calls its layers with their inputs by name, one of them twice."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 4, 1, stride=2), nn.Conv2d(4, 4, 1)
        self.up, self.head = nn.ConvTranspose2d(4, 4, 1), nn.Linear(4, 10)

    def forward(self, x):
        x = self.first(input=x)
        for _ in range(2):
            x = self.again(input=x)
        return self.head(input=self.up(output_size=None, input=x).mean((2, 3)))


def test_layers_that_are_called_with_their_input_by_name_are_as_others():
    x = torch.randn(4, 3, 4, 4)
    model = prepare(ByName(), W8A8, x)
    calibrate(model, x)
    avoid_unsafe_channels_last(model)
    model(x.contiguous(memory_format=torch.channels_last)).sum().backward()
    assert all(q.calibrated for q in quantizers(model).values())
    cost = model_cost(model, (3, 4, 4))
    assert cost.macs == 4 * (3 * 4 + 2 * 4 * 4 + 4 * 4) + 4 * 10
    assert classifier_of(model, (3, 4, 4)) == ("head", (4,))
