"""Weights files: only tensors, and a clear word where they do not fit."""

import contextlib
import pickle
import zipfile
from random import Random

import pytest
import torch
from safetensors.torch import save_file

from lsqctl.errors import DataError
from lsqctl.models.factory import build_model
from lsqctl.training.weights import (
    check_torchvision_weights,
    load_weights,
    read_weights,
    weights_digest,
)


def net(**changes):
    return build_model("resnet8", **({"num_classes": 10, "in_channels": 1} | changes))


def same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("form", ["plain", "state_dict", "module", "safetensors", "no_counters"])
def test_the_usual_forms_of_a_weights_file_load(tmp_path, form):
    source, target = net(), net()
    state = source.state_dict()
    path = tmp_path / "weights.th"
    if form == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    elif form == "state_dict":
        torch.save({"best_prec1": 91.7, "state_dict": state}, path)
    elif form == "module":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    elif form == "no_counters":
        torch.save({k: v for k, v in state.items() if "num_batches" not in k}, path)
    else:
        torch.save(state, path)
    load_weights(target, path, model_name="resnet8")
    assert same(source, target)


def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "evil.pt"
    torch.save({"conv1.weight": Evil()}, path)
    with pytest.raises(DataError, match="does not read as weights"):
        load_weights(net(), path, model_name="resnet8")
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(DataError, match="does not read as weights"):
        load_weights(net(), path, model_name="resnet8")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["cut.pt", "cut.safetensors"])
def test_a_cut_or_empty_file_is_a_data_error(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(DataError, match="does not read as weights"):
        load_weights(net(), path, model_name="resnet8")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_file_is_a_data_error_whatever_torch_raises(tmp_path, seed):
    path = tmp_path / "w.pt"
    torch.save({"a": torch.arange(300.0)}, path, _use_new_zipfile_serialization=seed % 2 == 0)
    whole, random = path.read_bytes(), Random(seed)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in random.sample(range(len(whole) if seed < 4 else 200), 4):
            damaged[at] = random.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):  # what was hit may mean nothing
            read_weights(path, model_name="resnet8")


def test_a_zip_bomb_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(9_000_000))
    with pytest.raises(DataError, match=r"compressed and would take 9\.\d* MB"):
        load_weights(net(), path, model_name="resnet8")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.zeros(2, 2).to_sparse(), "conv1.weight is not a dense tensor"),
        (torch.zeros(2, dtype=torch.complex64), "weights are real numbers"),
        (torch.zeros(2, dtype=torch.bool), "weights are real numbers"),
        (torch.tensor([1.0, float("nan")]), "is not finite"),
        (torch.tensor([1.0, float("inf")], dtype=torch.bfloat16), "is not finite"),
        (torch.zeros(2, device="meta"), "meta device"),
    ],
    ids=["sparse", "complex", "bool", "nan", "inf", "meta"],
)
def test_what_cannot_be_a_weight_is_refused_by_name(tmp_path, tensor, why):
    torch.save({"conv1.weight": tensor}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=why):
        load_weights(net(), tmp_path / "w.pt", model_name="resnet8")


def test_keys_that_do_not_fit_are_named_from_both_sides(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({f"stem.{i}.weight": torch.zeros(1) for i in range(7)}, path)
    with pytest.raises(DataError, match=r"lacks.*conv1\.weight.*besides: stem\.0.*and 2 more"):
        load_weights(net(), path, model_name="resnet8")


def test_shapes_that_do_not_fit_are_named_from_both_sides(tmp_path):
    path = tmp_path / "hundred.pt"
    torch.save(net(num_classes=100).state_dict(), path)
    words = r"for 100 classes, and the data have 10: .*\.weight \(10, 64\).*\.weight \(100, 64\)"
    with pytest.raises(DataError, match=rf"^distill\.teacher: {path} into resnet8: .*{words}"):
        load_weights(net(), path, model_name="resnet8", key="distill.teacher")


def test_other_shapes_inside_are_not_called_other_classes(tmp_path):
    state = net().state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(16, 8, 3, 3)
    torch.save(state, tmp_path / "narrow.pt")
    with pytest.raises(DataError, match="into resnet8: shapes do not fit"):
        load_weights(net(), tmp_path / "narrow.pt", model_name="resnet8")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no weights file .*gone\.pt"):
        load_weights(net(), tmp_path / "gone.pt", model_name="resnet8")
    with pytest.raises(DataError, match="no weights file"):
        weights_digest(tmp_path / "gone.pt")


def test_torchvision_weights_are_checked_by_name_without_a_download():
    check_torchvision_weights("ResNet18_Weights.IMAGENET1K_V1", "resnet18")
    check_torchvision_weights("DEFAULT", "resnet18")
    with pytest.raises(DataError, match="no weights `IMAGENET9`"):
        check_torchvision_weights("IMAGENET9", "resnet18")
