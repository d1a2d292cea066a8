"""Each form of a network gives the reference's logits in the runtimes that it is for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lsqctl.deploy import Options, convert
from lsqctl.deploy.card import Card, _difference, readme
from lsqctl.deploy.certificate import is_pair_safe
from lsqctl.deploy.checking import Comparison, reference_answers
from lsqctl.deploy.conversion import _Check
from lsqctl.deploy.folder import (
    _manifest,
    check_folder,
    npz_bytes,
    read_report,
    unlike_images,
    write_folder,
)
from lsqctl.deploy.forms import FORMS, Answers, Runner, Unavailable, WrittenForm, forms_markdown
from lsqctl.deploy.forms.c import FLAGS
from lsqctl.deploy.forms.codes import read_program
from lsqctl.deploy.forms.portable import Portable, in_openvino
from lsqctl.deploy.program import pack, unpack
from lsqctl.deploy.source import FormSource
from lsqctl.deploy.tracing import Pixels, trace
from lsqctl.errors import DataError, NotFound, UsageError
from lsqctl.models.factory import build_model
from lsqctl.quant import LayerOverride, QuantSpec, calibrate, prepare
from tests.conftest import FULL, fewer
from tests.deploy.networks import (
    EVEN,
    PIXELS,
    Chain,
    Everything,
    Windows,
    base,
    images,
    prepared,
    steep,
    traced,
)

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "deploy.md").read_text()
COMPILER = shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
GRAY = Pixels((0.3,), (0.4,), 1)
KINDS = {
    "w3a2 a step a channel, offset, residual 4": {
        "weight_bits": 3,
        "act_bits": 2,
        "per_channel": True,
        "act_offset": "learned",
        "act_signed": "unsigned",
        "residual_bits": 4,
    },
}
if FULL:
    KINDS |= {
        "w4a4, residual 8": {"residual_bits": 8},
        "w8a7 narrow signed, mixed": {
            "weight_bits": 8,
            "act_bits": 7,
            "narrow_range": True,
            "act_signed": "signed",
            "overrides": {"conv2": LayerOverride(weight_bits=5, act_bits=5)},
        },
    }


class Plain(Everything):
    """The network of the other tests, all of its padding zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(8, 16, 3, stride=2, padding=1)


class Joined(nn.Module):
    """A network with concatenations, of values that live on and of one twice."""

    def __init__(self, between=F.relu):
        super().__init__()
        self.between = between
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(8, 2, 1)
        self.head = nn.Linear(14, 5)

    def forward(self, x):
        x = self.between(self.conv1(x))
        twice = torch.cat([x, x], 1)
        return self.head(torch.cat([self.conv2(twice), x, twice], -3).mean((2, 3)))


class Tokens(nn.Module):
    """(B, 3, 8, 8) to (B, 20): a linear layer of each of four tokens, or of all as one row."""

    def __init__(self, *, as_one: bool) -> None:
        super().__init__()
        self.as_one = as_one
        self.conv = nn.Conv2d(3, 32, 4, 4)
        self.linear = nn.Linear(128, 20) if as_one else nn.Linear(32, 5)

    def forward(self, x):
        tokens = F.relu(self.conv(x)).flatten(2).transpose(1, 2)
        return self.linear(tokens.flatten(1) if self.as_one else tokens).flatten(1)


@pytest.fixture(scope="module", params=fewer(KINDS, 2), ids=str)
def network(request):
    return Sourced(traced(prepared(Plain(), **KINDS[request.param])))


@pytest.fixture(scope="module")
def resnet8():
    """The network of the digits recipes at W4A4, calibrated with made-up images."""
    torch.manual_seed(0)
    model = build_model("resnet8", num_classes=10, in_channels=1, image_size=8)
    model = prepare(model, QuantSpec())
    calibrate(model, [torch.randn(8, 1, 8, 8)])
    return model.eval()


class Sourced(FormSource):
    """What forms are written from, and each as it was written first."""

    def __init__(self, network) -> None:
        super().__init__(network, {"title": "a network */ of tests"}, plain=False)
        self.written = {}

    def write(self, form: str) -> WrittenForm:
        if form not in self.written:
            self.written[form] = FORMS.load(form)().write(self)
        return self.written[form]


def runner_of(source: Sourced, form: str, runtime: str) -> Runner:
    """A form, opened in a runtime."""
    written = source.write(form)
    runners = FORMS.load(form)().runners(written, name="it", threads=1, trusted=True)
    (runner,) = (one for one in runners if one.runtime == runtime)
    assert not isinstance(runner, Unavailable), runner
    return runner


def compared(source: Sourced, form: str, pixels, runtime: str):
    """What a form answers in a runtime, held against the reference."""
    runner = runner_of(source, form, runtime)
    comparison = Comparison(source.network)
    comparison.compare(reference_answers(source.network, pixels), runner.answer(pixels.numpy()))
    return comparison.counts


@given(st.integers(2, 8), st.data())
def test_codes_of_any_bits_are_packed_without_loss(bits, data):
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    codes = np.array(data.draw(st.lists(st.integers(low, high), min_size=1)), np.int8)
    packed = pack(codes, bits)
    assert packed.size == -(-len(codes) * bits // 8)
    assert (unpack(packed, bits, len(codes)) == codes).all()


def test_packed_codes_give_the_reference_s_logits_in_numpy(network):
    assert compared(network, "codes", images(5), "numpy").equal


@needs_compiler
def test_c_gives_the_reference_s_logits(network):
    assert compared(network, "c", images(5), "cc").equal


MAIN = """
#include <stdio.h>
#include "model.c"
int main(void)
{
    static lsq_pixel image[SIZE];
    static float logits[64];
    while (fread(image, sizeof *image, SIZE, stdin) == SIZE) {
        lsq_predict(image, logits);
        fwrite(logits, sizeof *logits, (size_t)lsq_classes, stdout);
    }
    return 0;
}
"""
SANITIZED = ["-fsanitize=undefined,address", "-fno-sanitize-recover=all", "-g"]
FUSING = ["-O3", "-march=native", "-ffp-contract=fast"]


@needs_compiler
@pytest.mark.parametrize("flags", [SANITIZED, FUSING], ids=["ubsan", "fused operations"])
def test_c_has_no_undefined_behaviour_and_no_operation_is_fused(flags, network, tmp_path):
    written = network.write("c")
    (tmp_path / "model.c").write_bytes(written.data)
    (tmp_path / "main.c").write_text(MAIN.replace("SIZE", "192"))
    subprocess.run(["cc", *FLAGS, *flags, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    pixels = images(5)
    done = subprocess.run(
        [tmp_path / "main"], input=pixels.numpy().tobytes(), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    found = np.frombuffer(done.stdout, np.float32).reshape(5, 5)
    assert (found == network.network(pixels).numpy()).all()


@needs_compiler
def test_fast_math_is_refused_by_the_file_itself(network, tmp_path):
    (tmp_path / "model.c").write_bytes(network.write("c").data)
    done = subprocess.run(
        ["cc", "-ffast-math", "-c", "model.c"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert "round once each" in done.stderr


@needs_compiler
def test_the_digits_network_takes_43_kB_of_flash_and_11_of_ram(resnet8):
    network = Sourced(trace(resnet8, (1, 8, 8), GRAY))
    details = network.write("c").details
    assert 39_000 < details["flash_bytes"] <= 43_000  # 39.7 kB are its weights and scales
    assert details["ram_bytes"] <= 11_000


def test_portable_has_standard_operators_of_opset_21_and_near_the_reference_s_logits(network):
    written = network.write("portable")
    model = onnx.load_from_string(written.data)
    onnx.checker.check_model(model)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 21)]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    counts = compared(network, "portable", images(16), "onnxruntime")
    assert counts.n_codes > 16 * 100
    assert counts.n_codes_differing <= counts.n_codes / 1e3


def test_portable_runs_in_openvino_with_int8_kernels(network):
    openvino = pytest.importorskip("openvino", reason="NO OPENVINO: pip install openvino")
    counts = compared(network, "portable", images(16), "openvino")
    assert counts.n_codes_differing <= counts.n_codes / 1e3
    written = network.write("portable")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(written.data), "CPU")
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [(str(i["layerType"].value), str(i["runtimePrecision"].value)) for i in infos]
    precisions = {precision for kind, precision in kinds if kind == "Convolution"}
    assert precisions <= {"i8", "u8"}, kinds


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("as_one", [False, True], ids=["tokens", "one row"])
def test_products_of_linear_layers_are_clipped_by_no_runtime(runtime, as_one):
    """Both make integer products of them; without VNNI those of signed bytes may be clipped."""
    pytest.importorskip(runtime, reason=f"NO {runtime.upper()}: pip install {runtime}")
    bits = {"first_weight_bits": 4, "last_weight_bits": 8}
    source = Sourced(traced(steep(Tokens(as_one=as_one), **bits)))
    unsafe = [name for name, one in source.network.layers.items() if not is_pair_safe(one)]
    assert unsafe == ["linear"]
    pixels = 255 - images(20) % 3
    found = runner_of(source, "portable", runtime).answer(pixels.numpy()).logits
    expected = source.network(pixels).numpy()
    assert not unlike_images(expected, found, bits=False).any()


def test_qonnx_of_any_bits_gives_the_reference_s_logits(network):
    pytest.importorskip("qonnx", reason="NO QONNX: pip install qonnx")
    assert compared(network, "qonnx", images(2), "qonnx").equal


class Hard(nn.Module):
    """(B, 3, 8, 8) to (B, 5): a block of MobileNetV3, whose channels are weighed, and a square."""

    def __init__(self):
        super().__init__()
        self.conv, self.squeeze = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, 5, 6)

    def forward(self, x):
        x = F.hardswish(self.conv(x))
        x = F.hardsigmoid(self.squeeze(F.avg_pool2d(x, 6))) * x
        return self.head(x * x).flatten(1)


@pytest.mark.parametrize(("form", "runtime"), [("codes", "numpy"), ("c", "cc")])
def test_hard_swish_and_products_are_those_of_torch_in_codes_and_c(form, runtime):
    if runtime == "cc" and COMPILER is None:
        pytest.skip("NO C COMPILER: install gcc or clang")
    source = Sourced(traced(prepared(Hard(), act_signed="signed")))
    assert compared(source, form, images(9), runtime).equal


@pytest.mark.parametrize(("form", "runtime"), [("codes", "numpy"), ("c", "cc")])
def test_channels_laid_one_behind_another_are_so_in_codes_and_c(form, runtime):
    if runtime == "cc" and COMPILER is None:
        pytest.skip("NO C COMPILER: install gcc or clang")
    source = Sourced(traced(prepared(Joined())))
    assert [one.kind for one in source.program.operations].count("concat") == 2
    assert compared(source, form, images(5), runtime).equal


class Maxima(nn.Module):
    """(B, 3, 8, 8) to (B, 5): maxima whose stride is their size, and beyond the edge."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 2), nn.Linear(24, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.head(F.max_pool2d(x, 2, ceil_mode=True).flatten(1))


@pytest.mark.parametrize(("form", "runtime"), [("codes", "numpy"), ("c", "cc")])
def test_maxima_move_by_their_size_where_no_stride_is_given(form, runtime):
    if runtime == "cc" and COMPILER is None:
        pytest.skip("NO C COMPILER: install gcc or clang")
    assert compared(Sourced(traced(prepared(Maxima()))), form, images(5), runtime).equal


@EVEN
@pytest.mark.parametrize(
    ("form", "runtime"), [("codes", "numpy"), ("c", "cc"), ("portable", "onnxruntime")]
)
def test_padding_by_side_and_dilation_by_axis_are_so_in_every_form(form, runtime):
    if runtime == "cc" and COMPILER is None:
        pytest.skip("NO C COMPILER: install gcc or clang")
    source = Sourced(traced(prepared(Windows())))
    counts = compared(source, form, images(5), runtime)
    assert counts.n_codes_differing == 0
    assert counts.equal or form == "portable"


def test_what_is_no_plain_operation_is_refused_by_name():
    swish = Sourced(traced(prepared(Joined(F.silu))))
    for name in ("c", "codes"):
        with pytest.raises(DataError, match=r"no place for silu .* promise bits.*use --form exact"):
            FORMS.load(name)().write(swish)
    circular = Sourced(traced(prepared()))
    with pytest.raises(DataError, match="no place for the padding of the layer conv3"):
        FORMS.load("codes")().write(circular)
    if FULL:  # to write ONNX takes seconds
        with pytest.raises(DataError, match="no circular padding"):
            FORMS.load("qonnx")().write(circular)


def shuffled(x):
    n, channels, height, width = x.shape
    return x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(x.shape)


def test_what_no_runtime_promises_the_bits_of_is_told_from_what_only_moves_values():
    assert traced(prepared(Joined(F.silu))).float_operations == ["silu"]
    assert traced(prepared()).float_operations == []
    moves = traced(prepared(Joined(shuffled)))
    assert moves.float_operations == []
    with pytest.raises(DataError, match=r"no place for view to 4 dimensions .*are shuffled"):
        FORMS.load("codes")().write(Sourced(moves))


class Attention(nn.Module):
    """(B, 3, 8, 8) to (B, 5): one block of a transformer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.conv(x).flatten(2).transpose(1, 2))
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def halves_swapped(x):
    first, second = x.chunk(2, 1)
    return torch.cat([second, first], 1)


class Halved(Joined):
    """A network whose channels are split in two."""

    def __init__(self):
        super().__init__(halves_swapped)


@pytest.mark.parametrize(
    ("network", "place"),
    [
        (Attention, "layer_norm, mean, scaled_dot_product_attention "),
        (Halved, "the operation chunk,"),
    ],
)
def test_attention_and_split_channels_are_named_where_c_and_codes_have_no_place(network, place):
    with pytest.raises(DataError, match=f"forms c and codes have no place for {place}"):
        FORMS.load("codes")().write(Sourced(traced(prepared(network()))))


def test_what_computes_in_float_is_told_and_promises_no_bits(tmp_path):
    torch.manual_seed(0)
    network = Everything().eval()
    convert(network, tmp_path / "fp32", [(images(8), None)], pixels=PIXELS)
    report = read_report(tmp_path / "fp32")
    assert report["float_operations"] == ["conv2d", "linear"]
    assert report["forms"]["exact"]["promises_bits"] is False
    card = (tmp_path / "fp32" / "README.md").read_text()
    assert "No layer is quantized: everything is FP32." in card
    assert "the network in FP32: no layer of it is quantized" in card
    assert "integer reference" not in card
    with np.load(tmp_path / "fp32" / "expected.npz") as arrays:
        pixels, logits = arrays["images"], arrays["logits"]
    for factor, problems in ((2e-6, 0), (0.1, 1)):
        files = {p.name: p.read_bytes() for p in (tmp_path / "fp32").iterdir()}
        files = {k: v for k, v in files.items() if k != "check.json"}
        files["expected.npz"] = npz_bytes(images=pixels, logits=logits * np.float32(1 + factor))
        rest = {k: v for k, v in report.items() if not k.startswith("sha256")}
        write_folder(tmp_path / str(factor), files, rest)
        assert len(check_folder(tmp_path / str(factor)).problems) == problems


def test_a_runtime_that_refuses_a_file_is_said_with_its_reason():
    pytest.importorskip("openvino", reason="NO OPENVINO: pip install openvino")
    written = WrittenForm(b"no ONNX at all")
    with pytest.raises(DataError, match=r"onnxruntime refuses model\.onnx"):
        list(Portable().runners(written, name="model.onnx", threads=1, trusted=False))
    refused = in_openvino(written, name="model.onnx", threads=1)
    assert refused.refused
    assert refused.reason.startswith("openvino refuses model.onnx: ")


@pytest.mark.parametrize("second", [False, True], ids=["its own", "a second"])
def test_a_runtime_whose_answers_have_another_shape_is_said_with_it(second):
    network, pixels = base(), images(2)
    reference = reference_answers(network, pixels)
    short = Answers(reference.logits, {k: v[..., :-1] for k, v in reference.codes.items()})
    runner = Runner("openvino" if second else "onnxruntime", lambda _: short, promises_bits=False)
    check = _Check(network, {"portable": "model.onnx"}, ("portable", runner), Options())
    said = f"model.onnx in {runner.runtime} gives codes of conv1 as int16 (2, 3, 8, 7), expected"
    if not second:
        with pytest.raises(DataError, match=re.escape(said)):
            check.add(pixels, reference, None)
        return
    check.add(pixels, reference, None)
    entry = check.as_json(WrittenForm(b""))
    assert entry["not_run"].startswith(said)
    assert entry["refused"]


def test_what_a_runtime_refused_when_a_file_was_written_is_no_change_since(every, tmp_path):
    def garbled(files):
        files["onnx/model.onnx"] = b"no ONNX at all"

    folder = forged(tmp_path / "garbled", every, "portable", garbled)
    (problem,) = check_folder(folder).problems
    assert "onnxruntime refuses" in problem
    report = read_report(folder)
    report["forms"]["portable"] |= {"not_run": "it was so", "refused": True}
    del report["sha256_of_the_rest"]
    (folder / "check.json").write_bytes(_manifest(report))
    verdict = check_folder(folder)
    assert (verdict.problems, verdict.models) == ((), ())
    assert "onnxruntime refuses" in verdict.not_run[0]


class Strided(nn.Module):
    """(B, 3, 8, 8) to (B, 5): kernels of one pixel whose stride starts in the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second, self.third = (nn.Conv2d(8, 8, 1, s, 1) for s in (2, 3))
        self.head = nn.Linear(72, 5)

    def forward(self, x):
        return self.head(self.third(self.second(self.first(x).relu()).relu()).relu().flatten(1))


def test_a_stride_that_starts_in_the_padding_does_so_in_every_runtime():
    pytest.importorskip("openvino", reason="NO OPENVINO: pip install openvino")
    bits = {"first_weight_bits": 7, "last_weight_bits": 7}
    source = Sourced(traced(prepared(Strided(), **bits)))
    for form, runtime in (
        ("exact", "onnxruntime"),
        ("portable", "onnxruntime"),
        ("portable", "openvino"),
    ):
        assert compared(source, form, images(5), runtime).n_codes_differing == 0, runtime


def test_qonnx_refuses_what_is_no_network_before_it_executes_it():
    pytest.importorskip("qonnx", reason="NO QONNX: pip install qonnx")
    for data, said in ((b"", "is no network of the form qonnx"), (b"x", "is no ONNX file")):
        with pytest.raises(DataError, match=f"model.qonnx.onnx {said}"):
            list(
                FORMS.load("qonnx")().runners(
                    WrittenForm(data), name="model.qonnx.onnx", threads=1, trusted=False
                )
            )


@pytest.fixture(scope="module")
def every(resnet8, tmp_path_factory) -> Path:
    """A folder with every form of the digits network."""
    folder = tmp_path_factory.mktemp("forms") / "every"
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (70, 1, 8, 8), dtype=torch.uint8, generator=generator)
    card = Card("a 'title': with \"quotes\"", "resnet8", "mine", {"run": "none"})
    options = Options(("all",), hub=True, card=card)
    batches = [(pixels[a:b], torch.arange(a, b) % 10) for a, b in ((0, 66), (66, 70))]
    convert(resnet8, folder, batches, pixels=GRAY, options=options)
    return folder


def test_right_answers_on_a_part_of_a_test_set_are_not_shown_as_its_top1(every):
    report = read_report(every)
    assert b"model-index" in readme(Card("a", "resnet8", "mine"), report, {})
    assert b"model-index" not in readme(Card("a", "resnet8", "digits"), report, {})
    for form in report["forms"].values():
        form["labelled"] = 540
    assert b"model-index" in readme(Card("a", "resnet8", "digits"), report, {})


def test_a_folder_has_every_form_and_says_what_could_not_run(every):
    report = read_report(every)
    assert {entry["form"] for entry in report["forms"].values()} == set(FORMS)
    assert report["left_out"] == {}
    for entry in report["forms"].values():
        assert entry["bytes"] == (every / entry["file"]).stat().st_size
    verdict = check_folder(every)
    assert verdict.problems == ()
    assert any("model.c was not run in cc: --compile compiles" in one for one in verdict.not_run)
    assert "model.safetensors in numpy" in verdict.models


def test_w4a4_files_are_about_as_small_as_the_board_says(every):
    sizes = {name: (every / info.file_in(hub=True)).stat().st_size for name, info in FORMS.items()}
    assert sizes["codes"] < 48_000  # the board: 39.7 kB
    assert sizes["exact"] < 67_000
    assert sizes["portable"] < 67_000


def forged(folder: Path, every: Path, forms: str, change) -> Path:
    """Some forms of a folder with a changed file and honest hashes."""
    report = read_report(every)
    report["forms"] = {name: report["forms"][name] for name in forms.split()}
    del report["sha256_of_the_rest"]
    names = [name for name in report.pop("sha256") if "/" not in name or "portable" in forms]
    files = {name: (every / name).read_bytes() for name in names}
    change(files)
    write_folder(folder, files, report)
    return folder


def test_another_network_with_honest_hashes_is_found_in_each_form(every, tmp_path):
    """The portable file has another mean, the codes no last scale, C reads one pixel only."""

    def change(files):
        model = onnx.load_from_string(files["onnx/model.onnx"])
        (subtraction,) = [node for node in model.graph.node if node.op_type == "Sub"]
        (mean,) = [one for one in model.graph.initializer if one.name == subtraction.input[1]]
        other = np.full((1, 1, 1), 0.5, np.float32)
        mean.CopyFrom(onnx.numpy_helper.from_array(other, mean.name))
        files["onnx/model.onnx"] = model.SerializeToString()
        codes = files["model.safetensors"]
        scale = read_program(codes, "it").tensors["linear.scale"].tobytes()
        files["model.safetensors"] = codes.replace(scale, bytes(len(scale)))
        files["model.c"] = files["model.c"].replace(b"(float)image[i]", b"(float)image[0]")

    folder = forged(tmp_path / "forged", every, "portable codes c", change)
    problems = "\n".join(check_folder(folder, trusted=True).problems)
    for name in ("onnx/model.onnx", "model.safetensors", *(["model.c"] if COMPILER else [])):
        assert f"{name}: the logits of " in problems


def test_a_file_of_codes_that_is_cut_short_or_names_no_operation_ends_in_one_line(every, tmp_path):
    def cut(files):
        files["model.safetensors"] = files["model.safetensors"][:5000]

    def unknown(files):
        files["model.safetensors"] = files["model.safetensors"].replace(b"clamp", b"clasp")

    def without_settings(files):
        codes, old = files["model.safetensors"], rb"\"settings\":{\"low\":0,\"high\":null}"
        assert old in codes
        files["model.safetensors"] = codes.replace(old, rb"\"settings\":3".ljust(len(old)))

    for change in (cut, unknown, without_settings):
        (problem,) = check_folder(
            forged(tmp_path / change.__name__, every, "codes", change)
        ).problems
        assert re.search(r"is no file of packed codes|cannot be run", problem)
        assert "\n" not in problem


def test_a_folder_names_no_file_outside_of_itself(every, tmp_path):
    def outside(files):
        files["../other"] = b"x"

    with pytest.raises(DataError, match=r"names a file outside of the folder: '\.\./other'"):
        check_folder(forged(tmp_path / "outside", every, "codes", outside))


def test_an_unknown_form_and_a_missing_package_end_in_one_line(resnet8, tmp_path, monkeypatch):
    batch = [(torch.zeros((1, 1, 8, 8), dtype=torch.uint8), None)]
    with pytest.raises(NotFound, match="no form is named `exat`; did you mean `exact`"):
        convert(resnet8, tmp_path / "x", batch, pixels=GRAY, options=Options(("exat",)))
    monkeypatch.setattr("lsqctl.deploy.runtime.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"the form qonnx: this needs onnx, .*lsqctl\[deploy\]"):
        convert(resnet8, tmp_path / "x", batch, pixels=GRAY, options=Options(("qonnx",)))
    runners = FORMS.load("portable")().runners(WrittenForm(b""), name="x", threads=1, trusted=True)
    assert [type(one) for one in runners] == [Unavailable, Unavailable]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("package", ["qonnx", "onnx", "onnxruntime"])
def test_qonnx_says_which_of_the_packages_that_it_imports_is_missing(package, monkeypatch):
    monkeypatch.setattr("lsqctl.deploy.runtime.find_spec", lambda name: name != package or None)
    (runner,) = FORMS.load("qonnx")().runners(WrittenForm(b""), name="x", threads=1, trusted=True)
    assert runner.reason == f"this needs {package}: pip install 'lsqctl[qonnx]'"


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((1, 1, 1), "1 code differs from the integer reference, in 1 image; 1 prediction differs"),
        ((2000, 3, 0), "2,000 codes differ from the integer reference, in 3 images; 0 predictions"),
    ],
)
def test_what_differs_is_counted_in_the_singular_and_the_plural(counts, said):
    names = ("codes_differing", "images_differing", "predictions_differing")
    assert _difference({"codes": 5000, **dict(zip(names, counts, strict=True))}).startswith(said)


@pytest.mark.parametrize(
    ("first_bits", "forms", "told"),
    [
        (8, ("portable",), True),
        (8, ("exact",), False),
        (7, ("portable",), False),
    ],
)
def test_convolutions_that_openvino_may_clip_are_named_where_portable_is_written(
    tmp_path, first_bits, forms, told
):
    bits = {"first_weight_bits": first_bits, "last_weight_bits": 8}
    model = steep(Chain(), weight_bits=4, act_bits=4, **bits)
    convert(model, tmp_path / "d", [(images(2), None)], pixels=PIXELS, options=Options(forms))
    card = (tmp_path / "d" / "README.md").read_text()
    assert ("Two products of `conv1` may pass 16 bits: OpenVINO" in card) is told
    report = read_report(tmp_path / "d")
    unsafe = [one["name"] for one in report["integer_layers"] if not one["avx2_safe"]]
    assert unsafe == ["conv1", "linear2"][first_bits != 8 :]


@pytest.mark.slow
def test_with_all_what_is_not_possible_is_left_out_with_its_reason(tmp_path):
    model, batch = prepared(Joined(F.silu)), [(images(2), None)]
    options = Options(("all",))
    conversion = convert(model, tmp_path / "some", batch, pixels=PIXELS, options=options)
    assert set(conversion.left_out) == {"c", "codes"}
    assert "no place for silu" in conversion.left_out["c"]
    assert not (tmp_path / "some" / "model.c").exists()
    card = (tmp_path / "some" / "README.md").read_text()
    assert "c was left out: " in card
    assert "In fp32, as each runtime sees fit: silu. Every integer layer is exact for" in card
    check = read_report(tmp_path / "some")
    assert not any(form["promises_bits"] for form in check["forms"].values())
    assert check_folder(tmp_path / "some").problems == ()
    with pytest.raises(DataError, match="no place for silu"):
        convert(model, tmp_path / "none", batch, pixels=PIXELS, options=Options(("c",)))
    assert not (tmp_path / "none").exists()


def test_the_page_lists_the_forms():
    assert forms_markdown() in PAGE


def test_the_layout_of_hugging_face_is_read_by_its_own_readers(every):
    repocard = pytest.importorskip("huggingface_hub.repocard")
    hub = pytest.importorskip("timm.models._hub")
    for name in ("onnx/model.onnx", "onnx/model_quantized.onnx", "model.safetensors"):
        assert (every / name).is_file()
    read = repocard.ModelCard.load(every / "README.md")
    assert read.data.pipeline_tag == "image-classification"
    (result,) = read.data.eval_results
    report = next(iter(read_report(every)["forms"].values()))
    assert (result.metric_type, result.dataset_name) == ("accuracy", "mine")
    assert result.metric_value == pytest.approx(report["right"] / 70)
    settings, name, _ = hub.load_model_config_from_path(every)
    assert (name, settings["num_classes"], settings["input_size"]) == ("resnet8", 10, [1, 8, 8])
    assert settings["mean"] == [0.3]
