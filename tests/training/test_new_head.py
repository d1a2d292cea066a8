"""`model.head: new`: weights of other classes keep their features and get a new classifier."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from lsqctl.errors import DataError
from lsqctl.events import LogMessage, Result
from lsqctl.models.factory import build_model, build_on_meta
from lsqctl.models.heads import classifier_name
from lsqctl.training import finetune
from lsqctl.training.weights import load_weights, replaced_head
from tests.training.conftest import tiny

LAST = {
    "resnet8": "linear",
    "mixer_cifar": "head",
    "squeezenext23_2x": "classifier",
    "resnet18": "fc",
    "squeezenet1_1": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "densenet121": "classifier",
    "vgg11_bn": "classifier.6",
    "googlenet": "fc",
    "efficientnet_b0": "classifier.1",
    "vit_b_16": "heads.head",
    "swin_t": "head",
}
RECIPE = """\
model: {name: resnet8, weights: seven.pt, head: new}
data: {name: digits}
train: {epochs: 1}
"""


@pytest.fixture
def seven(tmp_path):
    """Return weights of resnet8 for seven classes of grey images, saved."""
    torch.manual_seed(1)
    torch.save(build_model("resnet8", num_classes=7, in_channels=1).state_dict(),
               tmp_path / "seven.pt")  # fmt: skip
    return tmp_path / "seven.pt"


QUICK = ("resnet8", "resnet18", "squeezenet1_1", "vit_b_16")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LAST],
)
def test_the_classifier_is_what_a_network_executes_last(name):
    size = 32 if name in ("resnet8", "mixer_cifar") else 224
    model = build_on_meta(name, num_classes=10, in_channels=3, image_size=size)
    assert classifier_name(model.to("meta"), (3, size, size)) == LAST[name]


def test_all_but_the_classifier_is_loaded_and_that_stays_as_it_was(seven):
    model = build_model("resnet8", num_classes=10, in_channels=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    _, said = load_weights(model, seven, model_name="resnet8", head="linear")
    assert said == "a new classifier `linear`: 10 classes, not 7"
    source = torch.load(seven, weights_only=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, (before if key.startswith("linear.") else source)[key])


def test_weights_of_the_same_classes_keep_their_classifier(seven):
    model = build_model("resnet8", num_classes=7, in_channels=1)
    _, said = load_weights(model, seven, model_name="resnet8", head="linear")
    assert said == ""
    assert torch.equal(model.linear.weight, torch.load(seven, weights_only=True)["linear.weight"])


def test_weights_of_another_network_do_not_fit_whatever_the_classifier(seven):
    model = build_model("cifar_resnet20", num_classes=10, in_channels=1)
    with pytest.raises(DataError, match="the keys do not fit"):
        load_weights(model, seven, model_name="cifar_resnet20", head="linear")


def test_a_classifier_of_other_features_is_not_replaced():
    model = nn.Sequential(nn.Linear(4, 3))
    assert "3 classes, not 5" in replaced_head(model, {"0.weight": torch.zeros(5, 4)}, "0")
    assert replaced_head(model, {"0.weight": torch.zeros(5, 8)}, "0") == ""


def test_a_run_says_that_its_classifier_is_new_and_claims_no_full_precision_start(job, seven):
    recipe = tiny(model={"weights": "seven.pt", "head": "new"}, train={"epochs": 1})
    events = list(finetune(recipe, replace(job(), inputs={"model.weights": seven})))
    said = "a new classifier `linear`: 10 classes, not 7"
    assert LogMessage(said) in events
    result = events[-1]
    assert isinstance(result, Result)
    assert said in result.notes
    assert result.fp32_n_correct is None


def test_a_quantized_parent_of_other_classes_hands_down_its_steps_but_for_the_classifier(job):
    parent = tiny(train={"epochs": 1})
    checkpoint = list(finetune(parent, job("parent")))[-1].evaluations[0].checkpoint
    folder = job("parent").run_dir / checkpoint
    model = build_model("resnet8", num_classes=3, in_channels=1, image_size=8)
    steps, said = load_weights(model, folder, model_name="resnet8", head="linear")
    assert "3 classes, not 10" in said
    assert any(key.endswith("step_size") for key in steps)
    assert not any(key.startswith("linear.") for key in steps)


def test_a_pretrained_squeezenet_is_tuned_to_two_classes_of_an_image_folder(job, tmp_path):
    for split in ("train", "val"):
        for label, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
            folder = tmp_path / "data" / "imagefolder" / split / label
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (64, 64), colour).save(folder / f"{number}.png")
    weights = tmp_path / "squeezenet.pt"
    torch.save(build_model("squeezenet1_1", num_classes=1000).state_dict(), weights)
    recipe = tiny(
        model={"name": "squeezenet1_1", "weights": "squeezenet.pt", "head": "new"},
        data={"name": "imagefolder", "batch_size": 4, "pad": 0, "resize": 64, "crop": 64},
        train={"epochs": 1},
    )
    *_, result = finetune(recipe, replace(job(), inputs={"model.weights": weights}))
    assert "a new classifier `classifier.1`: 2 classes, not 1,000" in result.notes


def test_submit_refuses_other_classes_with_the_remedy_and_says_in_the_plan_what_is_replaced(
    here, seven
):
    (here.folder / "head.yaml").write_text(RECIPE.replace(", head: new", ""))
    assert "`model.head: new` gives" in here("submit", "head.yaml", code=1).stderr
    (here.folder / "head.yaml").write_text(RECIPE)
    said = "head: a new classifier `linear`: 10 classes, not 7 as in seven.pt"
    assert said in here("submit", "head.yaml", "--dry-run").stderr
    plan = json.loads(here("submit", "head.yaml", "--dry-run", "--json").stdout)
    assert plan["notes"] == [said]


def test_three_lines_tune_torchvisions_weights_to_a_folder_of_images(here):
    (here.folder / "flowers.yaml").write_text(
        "model: {name: squeezenet1_1, weights: IMAGENET1K_V1, head: new}\n"
        "data: {name: imagefolder}\n"
        "train: {epochs: 1}\n"
    )
    told = here("submit", "flowers.yaml", "--dry-run", "--skip-data-check").stderr
    assert "flowers: a new classifier, where imagefolder has other classes" in told
    (here.folder / "c.yaml").write_text(
        "model: {name: resnet18, weights: IMAGENET1K_V1}\ndata: {name: cifar10}\n"
    )
    refused = here("submit", "c.yaml", "--dry-run", "--skip-data-check", code=2).stderr
    assert "`model.head: new` replaces the classifier" in refused
    words = ("--set", "model.head=new", "--dry-run", "--skip-data-check")
    assert "a new classifier: 10 classes, not 1,000" in here("submit", "c.yaml", *words).stderr


def test_a_new_head_without_weights_is_a_mistake_with_its_place(here):
    (here.folder / "head.yaml").write_text(RECIPE.replace("weights: seven.pt, ", ""))
    said = here("submit", "head.yaml", code=2).stderr
    assert "head.yaml:1:30" in said
    assert "no weights whose classifier could be replaced" in said
