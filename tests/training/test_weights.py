"""Weights files: only tensors, and a clear word where they do not fit."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from lsqctl.errors import DataError
from lsqctl.models.factory import build_model
from lsqctl.training.weights import check_torchvision_weights, load_weights, weights_digest


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
