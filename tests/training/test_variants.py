"""Every training setting at once: resumed to the bit, each variant counted again."""

from __future__ import annotations

import numpy as np
import pytest

from lsqctl.errors import DataError
from lsqctl.events import Checkpoint, Metric
from lsqctl.models.factory import build_model
from lsqctl.training import ExecutionContext
from lsqctl.training.checkpoint import load_model_state
from lsqctl.training.restore import reevaluate, restore_model
from lsqctl.training.weights import load_weights
from tests.conftest import fewer

from .attempts import assert_same_state, plain, rewritten, rows, run
from .conftest import small
from .small_world import EVAL_IMAGES

EVERYTHING = {
    "epochs": 3,
    "lr": 0.5,
    "accumulate": 3,
    "clip_norm": 0.1,
    "ema_decay": 0.9,
    "bn_freeze_epochs": 1,
    "bn_reestimate_images": 120,
    "precision": "fp16",
    "headline_variant": "ema",
}
EVALUATION = 2 * 2  # batches, raw and averaged
# how often to be asked before each next stop
CUTS = {
    "within the first epoch": 2,
    "while the averaged weights are counted": 4 + 3,
    "at the first frozen step": EVALUATION + 6 + EVALUATION,
    "while the statistics are estimated again": 6 + EVALUATION - 4 + 1,
    "while they are counted": 2 + EVALUATION + 1,
}


def recipe(**train):
    return small(train=EVERYTHING | train)


def whole_run(recipe, folder):
    return folder, run(recipe, ExecutionContext(run_dir=folder, data_dir=folder))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return whole_run(recipe(), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def whole_fp32(tmp_path_factory):
    """The same without half precision: a fifth of the time."""
    return whole_run(recipe(precision="fp32"), tmp_path_factory.mktemp("fp32"))


def test_a_run_with_every_setting_cut_at_every_new_place_is_the_whole_run(whole, job):
    folder, uninterrupted = whole
    found, steps = [], []
    for asked in CUTS.values():
        facts = run(recipe(), job(), stop_after=asked)
        steps.append(facts[-1].step)
        found += facts
    found += run(recipe(), job())
    assert steps == [2, 6, 12, 18, 18]
    assert rows(found) == rows(uninterrupted)
    assert plain(found[-1]) == plain(uninterrupted[-1])
    assert_same_state(folder, job().run_dir)


DROPPED = {
    "averaged weights": lambda parts: parts["training"].update(ema=parts["model"]),
    "count of clipped steps": lambda parts: parts["state"]["cursor"].update(clipped=0),
    "best of the average": lambda parts: parts["state"]["cursor"].update(
        ema_best=parts["state"]["cursor"]["ema_best"] | {"n_correct": 541}
    ),
}


@pytest.mark.parametrize("change", fewer(DROPPED.values(), 1), ids=fewer(DROPPED, 1))
def test_what_is_dropped_from_the_new_state_is_seen(whole_fp32, job, change):
    first = run(recipe(precision="fp32"), job(), stop_after=6 + EVALUATION + 2)
    rewritten(change)(job().run_dir)
    second = run(recipe(precision="fp32"), job())
    same_rows = rows(first) + rows(second) == rows(whole_fp32[1])
    assert not (same_rows and plain(second[-1]) == plain(whole_fp32[1][-1]))


def test_both_numbers_are_kept_and_exactly_the_declared_one_counts(whole):
    result = whole[1][-1]
    found = {(one.variant, one.selection): one for one in result.evaluations}
    assert list(found) == [
        *[("raw", "last"), ("raw", "best"), ("ema", "last"), ("ema", "best"), ("bn", "last")]
    ]
    assert [key for key, one in found.items() if one.headline] == [("ema", "last")]
    assert found["raw", "best"].step == found["ema", "best"].step
    assert "averaged weights (EMA)" in result.notes
    counted = [one for one in whole[1] if isinstance(one, Metric) and one.split == "test"]
    for variant, prefix in (("raw", ""), ("ema", "ema_"), ("bn", "bn_")):
        values = [one.value for one in counted if one.name == f"{prefix}top1"]
        assert len(values) == (1 if variant == "bn" else 3)
        assert values[-1] == 100 * found[variant, "last"].n_correct / EVAL_IMAGES


def test_each_variant_is_counted_again_from_its_checkpoint_to_the_image(whole, job):
    result = whole[1][-1]
    hits = set()
    for one in result.evaluations:
        folder = whole[0] / f"ckpt-{one.step:08d}"
        again = reevaluate(
            recipe(), folder, job(), data_digest=result.data_digest, variant=one.variant
        )
        assert (again.n_correct, again.hits) == (one.n_correct, one.hits)
        hits.add((one.selection, one.hits))
    assert len({found for selection, found in hits if selection == "last"}) == 3


def test_a_checkpoint_stands_for_the_headline_of_its_run(whole):
    saved = [one for one in whole[1] if isinstance(one, Checkpoint)][-1].directory
    held = {name: load_model_state(saved, name) for name in ("raw", "ema", "bn")}
    for name in ("raw", "bn"):
        assert not _equal(held["ema"]["bn1.running_mean"], held[name]["bn1.running_mean"])
    assert _equal(held["raw"]["conv1.weight"], held["bn"]["conv1.weight"])
    child = build_model("small_resnet", num_classes=10, in_channels=1)
    load_weights(child, saved, model_name="small_resnet")
    for model in (child, restore_model(recipe(), saved)):
        assert _equal(model.state_dict()["bn1.running_mean"], held["ema"]["bn1.running_mean"])


def test_a_variant_that_a_checkpoint_does_not_hold_is_said(job):
    facts = run(small(train={"epochs": 0}), job())
    with pytest.raises(DataError, match="holds no ema variant"):
        load_model_state(facts[-2].directory, "ema")


def _equal(a, b):
    return np.array_equal(a.numpy(), b.numpy())
