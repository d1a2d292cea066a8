"""What a run counts is what its deployed file answers, image by image."""

from __future__ import annotations

import pytest
import torch

from lsqctl.errors import UnfitKey, UsageError
from lsqctl.events import KernelUse, LogMessage
from lsqctl.models.factory import build_model
from lsqctl.quant import QuantSpec, integer_network, prepare
from lsqctl.services.deploy import remeasure_deployed
from lsqctl.training import finetuning, restore
from lsqctl.training.evaluation import decide_evaluation, evaluate
from lsqctl.training.restore import reevaluate, restore_model

from .attempts import run
from .conftest import session_of, small

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_s_own_count_is_that_of_its_file_in_onnxruntime(job, precision):
    recipe = small(train={"epochs": 1, "lr": 0.2, "precision": precision})
    facts = run(recipe, job())
    assert next(one for one in facts if isinstance(one, KernelUse)).evaluation == "integer"
    (stored, *_), digest = facts[-1].evaluations, facts[-1].data_digest
    directory = job().run_dir / stored.checkpoint
    file = remeasure_deployed(recipe, directory, job(), digest, settled=False)
    assert (file.hits, file.loss) == (stored.hits, stored.loss)
    again = reevaluate(recipe, directory, job(threads=2), data_digest=digest)
    assert (again.hits, again.loss) == (stored.hits, stored.loss)


def test_all_variants_are_counted_in_integers_and_so_again(job):
    kept = {"ema_decay": 0.5, "bn_reestimate_images": 240, "headline_variant": "ema"}
    recipe = small(train=kept | {"epochs": 1, "precision": "bf16"})
    result = run(recipe, job())[-1]
    assert {one.variant for one in result.evaluations} == {"raw", "ema", "bn"}
    for stored in result.evaluations:
        directory, digest = job().run_dir / stored.checkpoint, result.data_digest
        again = reevaluate(recipe, directory, job(), data_digest=digest, variant=stored.variant)
        assert (again.hits, again.loss) == (stored.hits, stored.loss)
    headline = next(one for one in result.evaluations if one.headline)
    directory = job().run_dir / headline.checkpoint
    file = remeasure_deployed(recipe, directory, job(), result.data_digest, settled=False)
    assert (headline.variant, file.loss) == ("ema", headline.loss)


def test_a_recipe_may_have_the_count_as_it_was_trained(job):
    recipe = small(train={"epochs": 1, "evaluation": "trained"})
    facts = run(recipe, job())
    assert next(one for one in facts if isinstance(one, KernelUse)).evaluation == "trained"
    stored = facts[-1].evaluations[0]
    model = restore_model(recipe, job().run_dir / stored.checkpoint)
    counts = evaluate(model, session_of(recipe, job("other")).pipeline.eval_batches())
    assert counts.loss == stored.loss


SHAPE = (1, 8, 8)


def test_integers_are_taken_where_they_can_be_and_refused_where_they_cannot(monkeypatch):
    def network(**bits):
        spec = QuantSpec(weight_bits=4, act_bits=4, **bits)
        return prepare(build_model("resnet8", num_classes=10, in_channels=1), spec)

    assert decide_evaluation("auto", network(), CPU, SHAPE) == "integer"
    assert decide_evaluation("trained", network(), CPU, SHAPE) == "trained"
    full = build_model("resnet8", num_classes=10, in_channels=1)
    assert decide_evaluation("auto", full, CPU, SHAPE) == "trained"
    with pytest.raises(UnfitKey, match="no layer of it has both its"):
        decide_evaluation("integer", full, CPU, SHAPE)
    for alike, found in ((True, "integer"), (False, "trained")):
        monkeypatch.setattr(integer_network, "computes_alike", lambda *_, alike=alike: alike)
        assert decide_evaluation("auto", network(), torch.device("cuda", 0), SHAPE) == found
    with pytest.raises(UnfitKey, match=r"train\.evaluation: its logits on cuda are not those of"):
        decide_evaluation("integer", network(), torch.device("cuda", 0), SHAPE)


def test_where_integers_are_others_a_run_goes_on_as_it_is_trained(job, monkeypatch):
    recipe = small(train={"epochs": 2})
    run(recipe, job(), stop_after=2)
    monkeypatch.setattr(finetuning, "no_integers_on", lambda *_: "they are others here")
    facts = run(recipe, job())
    assert "evaluated as it is trained from here on, for they are others here" in [
        one.text for one in facts if isinstance(one, LogMessage)
    ]
    assert next(one for one in facts if isinstance(one, KernelUse)).evaluation == "trained"
    assert facts[-1].deterministic == "statistical"
    stored = facts[-1].evaluations[0]
    monkeypatch.setattr(restore, "no_integers_on", lambda *_: "they are others here")
    again = reevaluate(
        recipe, job().run_dir / stored.checkpoint, job(), data_digest=facts[-1].data_digest
    )
    assert again.loss == stored.loss


def test_integers_are_not_measured_again_where_they_are_others(job, monkeypatch):
    recipe = small(train={"epochs": 1})
    result = run(recipe, job())[-1]
    directory = job().run_dir / result.evaluations[0].checkpoint
    monkeypatch.setattr(restore, "no_integers_on", lambda *_: "they are others here")
    with pytest.raises(UsageError, match="integers, and they are others here: take --device cpu"):
        reevaluate(recipe, directory, job(), data_digest=result.data_digest)


def test_a_run_that_goes_on_from_before_there_were_integers_is_counted_as_it_was(job):
    recipe = small(train={"epochs": 2, "evaluation": "trained"})
    whole = run(recipe, job())[-1]
    other = job("other")
    run(recipe, other, stop_after=2)
    facts = run(recipe, other)
    assert facts[-1].evaluations[0].loss == whole.evaluations[0].loss
