"""A run becomes a folder that others can run and check; docs/deploy.md tells the truth of it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lsqctl.deploy.folder import (
    _manifest,
    check_folder,
    check_free,
    npz_bytes,
    read_expected,
    read_report,
    write_folder,
)
from lsqctl.deploy.runtime import missing_packages
from lsqctl.errors import DataError, NotFound, UsageError
from tests.conftest import CommandLine

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "deploy.md").read_text()
MODEL = "model.onnxruntime.onnx"
SHORT = ["--set", "model.weights=null", "--set", "train.epochs=2"]  # no parent, and not for long
HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "lsqctl", "onnx", "onnxscript", "ml_dtypes"}:
            raise ImportError(name + " is hidden")
sys.meta_path.insert(0, Hidden())
"""


def blocks(kind: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory) -> tuple[CommandLine, str]:
    """A workspace in which the commands of the page ran; what they printed."""
    line = CommandLine(tmp_path_factory.mktemp("deployed"))
    (block,) = blocks("console")
    printed = []
    for command in block.splitlines():
        words = command.removeprefix("$ lsqctl ").split()
        done = line(*words, *(SHORT if words[0] == "run" else []))
        printed.append(done.stdout + done.stderr)
    return line, "\n".join(printed)


def run_id(printed: str) -> str:
    found = re.search(r"run (\w{8}) \(digits", printed)
    assert found
    return found[1]


@pytest.fixture
def shipped(deployed, tmp_path) -> Path:
    """A copy of the folder, to be damaged."""
    return Path(shutil.copytree(deployed[0].folder / "shipped", tmp_path / "shipped"))


def test_it_says_which_network_it_took_and_that_every_code_is_equal(deployed):
    line, printed = deployed
    assert re.search(r"raw weights, last epoch, \d+ of 540 right on the board", printed)
    assert "8 layers computed in integers (lsq-integer-1)" in printed
    assert "540 images, 2,419,200 codes: equal to the integer reference in every code" in printed
    assert "as it was trained (fake-quantized in fp32), 540 images, 2,419,200 codes" in printed
    config = json.loads((line.folder / "shipped" / "config.json").read_text())
    assert config["label_names"] == list("0123456789")
    assert re.search(r"conv1\t.*\tproved\n", printed)
    assert "3 of these are proved for every input" in printed
    assert "5 files as they were written" in printed
    assert "9 files as they were written" in printed
    assert re.search(r"c \(cc\), 540 images: equal to the integer reference in every bit", printed)
    form = read_report(line.folder / "shipped")["forms"]["exact"]
    assert (form["codes_differing"], form["logits_differing"]) == (0, 0)
    assert form["right"] == form["reference_right"] > 0


def test_the_board_counts_the_file_and_compare_and_verify_hold_for_it(deployed):
    line, printed = deployed
    run = run_id(printed)
    size = (line.folder / "shipped" / MODEL).stat().st_size
    right = read_report(line.folder / "shipped")["forms"]["exact"]["right"]
    assert f"variant deployed: {right} of 540 right, exact, {size:,} bytes" in printed
    columns = "top1_deployed,exactness,file_bytes,size_bytes"
    table = line("leaderboard", "--columns", columns, "--format", "csv", "--published", "none")
    row = next(csv.DictReader(io.StringIO(table.stdout)))
    assert float(row["top1_deployed"]) == pytest.approx(100 * right / 540)
    assert (row["exactness"], int(row["file_bytes"])) == ("exact", size)
    assert 0 < int(row["size_bytes"]) < size
    compared = json.loads(line("compare", run, f"{run}:deployed", "--json").stdout)
    assert [row["second_top1"] for row in compared["rows"]] == [pytest.approx(100 * right / 540)]
    verdicts = json.loads(line("verify", run, "--json").stdout)["results"]
    assert {one["variant"]: one["verified"] for one in verdicts} == {"raw": True, "deployed": True}
    assert "only `deployed` or `sweep` can" in line("compare", run, f"{run}:x", code=3).stderr


@pytest.mark.slow
def test_deployed_again_it_has_the_same_bytes(deployed):
    line, printed = deployed
    line("deploy", "run", run_id(printed), "-o", "again", "--json")
    for path in (line.folder / "shipped").iterdir():
        assert path.read_bytes() == (line.folder / "again" / path.name).read_bytes(), path.name


def test_onnxruntime_and_numpy_alone_give_the_expected_logits_bit_for_bit(shipped):
    (code,) = blocks("python", (shipped / "README.md").read_text())
    done = subprocess.run(
        [sys.executable, "-c", HIDE + code], cwd=shipped, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("True [")
    logits = np.load(shipped / "expected.npz")["logits"]
    assert logits.shape == (64, 10)
    assert len(np.unique(logits)) > 500  # of a network that answers, not constants


def test_the_check_of_a_folder_loads_no_torch(shipped):
    code = (
        "import sys; from pathlib import Path; from lsqctl.deploy.folder import check_folder;"
        "assert check_folder(Path(sys.argv[1])).problems == ();"
        "assert not {'torch', 'onnx', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(shipped)], check=True)


@pytest.mark.parametrize("name", [MODEL, "expected.npz", "config.json", "README.md"])
def test_one_changed_byte_of_any_file_is_found(shipped, name):
    assert check_folder(shipped).problems == ()
    data = bytearray((shipped / name).read_bytes())
    data[len(data) // 2] ^= 1
    (shipped / name).write_bytes(data)
    try:
        problems = check_folder(shipped).problems
    except DataError as error:
        problems = (str(error),)
    assert problems
    assert name in problems[0]


def test_a_changed_report_and_a_missing_file_are_found(shipped):
    (shipped / "README.md").unlink()
    (problem,) = check_folder(shipped).problems
    assert "README.md is gone" in problem
    report = (shipped / "check.json").read_text()
    (shipped / "check.json").write_text(
        report.replace('"codes_differing": 0', '"codes_differing": 1')
    )
    with pytest.raises(DataError, match=r"check\.json has changed since it was written"):
        check_folder(shipped)
    (shipped / "check.json").write_text("[]")
    with pytest.raises(DataError, match=r"check\.json holds no JSON object: deploy the run again"):
        check_folder(shipped)
    (shipped / "check.json").write_text(report[:100])
    with pytest.raises(DataError, match=r"check\.json is damaged: .*; deploy the run again"):
        check_folder(shipped)
    (shipped / "check.json").write_text(report)
    (shipped / "expected.npz").unlink()
    with pytest.raises(DataError, match=r"expected\.npz is gone: deploy the run again"):
        check_folder(shipped)
    (shipped / "check.json").unlink()
    with pytest.raises(NotFound, match=r"has no check\.json; `lsqctl deploy RUN -o DIR` writes"):
        check_folder(shipped)


def with_report(folder: Path, change) -> Path:
    """The folder with another report and an honest hash of that."""
    report = json.loads((folder / "check.json").read_text())
    del report["sha256_of_the_rest"]
    change(report)
    (folder / "check.json").write_bytes(_manifest(report))
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(schema_version=2), "has version 2, this lsqctl reads 1: upgrade"),
        (lambda r: r.pop("sha256"), "is not what a deployment writes"),
        (lambda r: r.update(sha256=["config.json"]), "is not what a deployment writes"),
        (lambda r: r.pop("forms"), "is not what a deployment writes"),
        (lambda r: r.update(forms={"exact": 3}), "is not what a deployment writes"),
        (lambda r: r["forms"]["exact"].pop("file"), "is not what a deployment writes"),
        (lambda r: r["sha256"].pop(MODEL), "is not what a deployment writes"),
        (lambda r: r["sha256"].pop("expected.npz"), "is not what a deployment writes"),
        (lambda r: r["forms"]["exact"].update(expected_differing="0"), "is not what a deployment"),
    ],
)
def test_a_report_of_a_newer_version_or_another_shape_ends_in_one_line(shipped, change, said):
    with pytest.raises(DataError, match=said) as caught:
        check_folder(with_report(shipped, change))
    assert "\n" not in str(caught.value)


def test_a_form_that_this_version_does_not_know_is_a_problem_and_the_rest_is_checked(shipped):
    folder = with_report(shipped, lambda r: r["forms"]["exact"].update(form="new"))
    (problem,) = check_folder(folder).problems
    assert "has the form new, which is not known: upgrade lsqctl" in problem


def one_bit_off(folder: Path) -> tuple[str, ...]:
    """What a check says where one expected logit is another, by its last bit."""
    with np.load(folder / "expected.npz") as arrays:
        images, logits = arrays["images"], arrays["logits"].copy()
    logits[5, 0] = np.nextafter(logits[5, 0], np.float32(np.inf))
    (folder / "expected.npz").write_bytes(npz_bytes(images=images, logits=logits))
    digest = hashlib.sha256((folder / "expected.npz").read_bytes()).hexdigest()
    folder = with_report(folder, lambda r: r["sha256"].update({"expected.npz": digest}))
    return check_folder(folder).problems


def test_of_a_file_of_before_it_is_said_that_processors_may_clip_its_sums(shipped):
    def older(report):
        del report["forms"]["exact"]["unclipped"]

    (problem,) = one_bit_off(shipped)
    assert problem.endswith("(image 5 is the first; 0 were so when it was written)")
    (problem,) = check_folder(with_report(shipped, older)).problems
    assert "were so when it was written); an older lsqctl wrote its weights so that" in problem
    assert "processors without VNNI or AMX may clip sums of them: deploy the run again" in problem


def test_bits_that_were_other_ones_when_a_file_was_written_are_none_that_were_expected(shipped):
    def written_so(report):
        report["forms"]["exact"]["expected_differing"] = 1

    assert check_folder(with_report(shipped, written_so)).problems == ()
    (problem,) = one_bit_off(shipped)
    assert "logits of 1 of 64 images are not the expected ones" in problem
    assert "(image 5 is the first; 1 were so when it was written)" in problem


@pytest.mark.parametrize("text", ["hello", "[]", "null", "[" * 100_000, "\xff"])
def test_a_report_that_is_no_report_ends_in_one_line(shipped, text):
    (shipped / "check.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(
        DataError, match=r"check\.json (is damaged|holds no JSON object): .*deploy the run again"
    ) as caught:
        check_folder(shipped)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda images, logits: (images[:0], logits[:0]),
        lambda images, logits: (images, logits[:10]),
        lambda images, logits: (images.astype("f8"), logits),
        lambda images, logits: (np.array(3), np.array(3)),
        lambda images, logits: (np.array(["a"]), logits[:1]),
    ],
    ids=["none", "fewer logits", "fp64", "a number", "text"],
)
def test_expected_arrays_that_are_no_images_and_logits_end_in_one_line(shipped, change):
    with np.load(shipped / "expected.npz") as arrays:
        images, logits = change(arrays["images"], arrays["logits"])
    (shipped / "expected.npz").write_bytes(npz_bytes(images=images, logits=logits))
    with pytest.raises(DataError, match=r"expected\.npz holds no images and their logits"):
        check_folder(shipped)


def npy_bytes(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(**attributes) -> bytes:
    """A zip whose only file claims to be encrypted or compressed as its attributes say."""
    data = bytearray(npz_bytes(images=np.zeros(3)))
    for start in (data.find(b"PK\x03\x04") + 6, data.find(b"PK\x01\x02") + 8):
        for key, offset in (("flags", 0), ("method", 2)):
            data[start + offset] = attributes.get(key, data[start + offset])
    return bytes(data)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(npy_bytes(np.zeros(3))),
        lambda path: path.write_bytes(zipped(flags=1)),
        lambda path: path.write_bytes(zipped(method=99)),
        lambda path: path.write_bytes(b""),
    ],
    ids=["one array", "a password", "another compression", "nothing"],
)
def test_expected_arrays_that_numpy_cannot_read_end_in_one_line(tmp_path, make):
    make(tmp_path / "expected.npz")
    with pytest.raises(DataError, match=r"expected\.npz cannot be read: .*deploy the run again"):
        read_expected(tmp_path)


def test_images_that_a_file_does_not_take_end_in_one_line(shipped):
    with np.load(shipped / "expected.npz") as arrays:
        images, logits = arrays["images"][..., :5], arrays["logits"]
    (shipped / "expected.npz").write_bytes(npz_bytes(images=images, logits=logits))
    problems = check_folder(shipped).problems
    assert "onnxruntime cannot run" in problems[-1]
    assert "\n" not in problems[-1]


def test_what_is_no_folder_is_said_to_be_none(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotFound, match=r"file is a file; `lsqctl deploy RUN -o DIR` writes"):
        check_folder(tmp_path / "file")
    with pytest.raises(NotFound, match="none is not there; "):
        check_folder(tmp_path / "none")


def test_where_nothing_may_be_written_it_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # of root's files none is closed to root
    with pytest.raises(UsageError, match="cannot be written into; name a folder elsewhere"):
        check_free(tmp_path / "out")


def forged(shipped: Path, change) -> Path:
    """The folder with another model and honest hashes of it."""
    model = onnx.load(shipped / MODEL)
    change(model)
    files = {path.name: path.read_bytes() for path in shipped.iterdir() if path.suffix != ".json"}
    files |= {"config.json": (shipped / "config.json").read_bytes()}
    files[MODEL] = model.SerializeToString()
    report = read_report(shipped)
    del report["sha256"], report["sha256_of_the_rest"]
    folder = shipped.parent / "forged"
    write_folder(folder, files, report)
    return folder


def wrong_mean(model):
    (subtraction,) = [node for node in model.graph.node if node.op_type == "Sub"]
    move_first(model, subtraction.input[1], np.float32(0.01))


def other_weight(model):
    cast = next(n for n in model.graph.node if n.op_type == "Cast" and n.input[0] != "images")
    move_first(model, cast.input[0], 1)


def finer_step(model):
    quantizer = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    move_first(model, quantizer.input[1], np.float32(0.001))


def move_first(model, name, amount):
    (tensor,) = [one for one in model.graph.initializer if one.name == name]
    array = numpy_helper.to_array(tensor).copy()
    value = array.reshape(-1)[0]
    array.reshape(-1)[0] = value - amount if value > 0 else value + amount
    tensor.CopyFrom(numpy_helper.from_array(array, name))


@pytest.mark.parametrize("change", [wrong_mean, other_weight, finer_step])
def test_another_model_with_honest_hashes_is_found_by_its_logits(shipped, change):
    (problem,) = check_folder(forged(shipped, change)).problems
    assert re.search(r"the logits of \d+ of 64 images are not the expected ones", problem)


def test_what_onnxruntime_cannot_load_ends_in_one_line(shipped):
    def other_opset(model):
        model.opset_import[0].version = 99

    (problem,) = check_folder(forged(shipped, other_opset)).problems
    assert "onnxruntime refuses" in problem
    assert "\n" not in problem


def test_the_command_line_exits_with_1_and_names_what_changed(deployed, shipped):
    line, _ = deployed
    with (shipped / MODEL).open("ab") as file:
        file.write(b"x")
    done = line("deploy", "check", shipped, code=1)
    assert f"{MODEL} has changed: its sha256 is" in done.stderr
    assert json.loads(line("deploy", "check", shipped, "--json", code=1).stdout)["problems"]


def test_nothing_is_overwritten_and_nothing_half_written(deployed):
    line, printed = deployed
    run = run_id(printed)
    before = sorted((line.folder / "shipped").iterdir())
    done = line("deploy", run, "-o", "shipped", code=2)
    assert "shipped exists; name another folder, or remove it first" in done.stderr
    assert "there is no folder" in line("deploy", run, "-o", "no/such", code=2).stderr
    unknown = line("deploy", run, "-o", "x", "--form", "exat", code=3)
    assert "no form is named `exat`; did you mean `exact`" in unknown.stderr
    assert "add --html FILE" in line("leaderboard", "--classify", "every", code=2).stderr
    assert "no run" in line("deploy", "nosuch", "-o", "x", code=3).stderr
    many = line("deploy", run, "-o", "x", "--check", "many", code=2).stderr
    assert "'--check': must be a whole number, got `many`; all images: all" in many
    line("submit", "digits/resnet8-w4a4", "--seed", "9", "--hold")
    done = line("deploy", "@last", "-o", "x", code=3)
    assert "only a succeeded run can be deployed" in done.stderr
    assert not (line.folder / "x").exists()
    assert not [path for path in line.folder.iterdir() if path.name.startswith(".lsqctl.")]
    assert sorted((line.folder / "shipped").iterdir()) == before


@pytest.mark.slow
def test_a_run_that_is_not_quantized_is_written_as_fp32_and_says_so(deployed):
    line, _ = deployed
    line("run", "digits/resnet8-fp32", "--set", "train.epochs=1")
    done = line("deploy", "@last", "-o", "float", "--check", "70")
    assert "No layer is quantized: everything is FP32." in done.stdout + done.stderr
    assert "differ from the network in torch in a bit; 0 predictions differ" in done.stderr
    assert read_report(line.folder / "float")["forms"]["exact"]["images"] == 70


def test_a_missing_package_ends_in_the_command_that_helps():
    assert missing_packages("onnx") == ""
    line = missing_packages("onnx", "no_such_package")
    assert line == "this needs no_such_package: pip install 'lsqctl[deploy]'"


def test_the_page_s_loader_reads_the_codes_with_numpy_and_safetensors_alone(deployed):
    line, _ = deployed
    loader, _ = blocks("python")
    assert len(loader.partition("\nfor name")[0].splitlines()) <= 26
    proof = """
import onnx.numpy_helper
model = onnx.load("every/model.qonnx.onnx")
floats = [onnx.numpy_helper.to_array(one) for one in model.graph.initializer]
for codes, step, scale, shift in load("every/model.safetensors").values():
    same = [f for f in floats if f.size == codes.size and f.ndim > 1]
    assert any((f.T if f.ndim == 2 else f).ravel().tolist() == codes.ravel().tolist() for f in same)
"""
    hidden = HIDE.replace(', "onnx", "onnxscript", "ml_dtypes"', "")
    done = subprocess.run(
        [sys.executable, "-c", hidden + loader + proof],
        cwd=line.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 8


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path):
    loader, code = blocks("python")
    assert loader.startswith("import json")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("True {")
