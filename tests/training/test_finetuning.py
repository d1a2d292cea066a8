"""The law of a run: stopped anywhere and resumed, it is the run that was never stopped."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from lsqctl.errors import DataError, Diverged
from lsqctl.events import Checkpoint, LogMessage, Metric, Result, Resumed
from lsqctl.training import finetune
from lsqctl.training.checkpoint import resume_point
from tests.conftest import fewer

from .attempts import assert_same_state, plain, rewritten, rows, run
from .conftest import small
from .small_world import EVAL_IMAGES

STEPS = 6  # an epoch of the small recipe
EVALUATION = 2  # batches


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    from lsqctl.training import ExecutionContext

    folder = tmp_path_factory.mktemp("whole")
    facts = run(small(), ExecutionContext(run_dir=folder, data_dir=folder))
    return folder, facts


CUTS = {
    "right after calibration": 0,
    "step 1": 1,
    "mid-epoch": 3,
    "last batch of an epoch": STEPS - 1,
    "first batch of an evaluation": STEPS,
    "during an evaluation": STEPS + 1,
    "first batch of the next epoch": STEPS + EVALUATION,
    "last evaluation": 2 * STEPS + EVALUATION + 1,
}


@pytest.mark.parametrize("asked", fewer(CUTS.values(), 4), ids=fewer(CUTS, 4))
def test_stopping_and_resuming_gives_every_tensor_and_every_metric_row(uninterrupted, job, asked):
    folder, whole = uninterrupted
    first = run(small(), job(), stop_after=asked)
    second = run(small(), job())
    assert isinstance(second[0], Resumed)
    assert second[0].step == first[-1].step
    assert rows(first) + rows(second) == rows(whole)
    assert plain(second[-1]) == plain(whole[-1])
    assert_same_state(folder, job().run_dir)


def test_many_stops_in_a_row_change_nothing(uninterrupted, job):
    folder, whole = uninterrupted
    found, facts = [], []
    while not facts or not isinstance(facts[-1], Result):
        facts = run(small(), job(), stop_after=1)
        if len(found) > 200:
            pytest.fail("no progress")
        if not rows(facts) and facts[-1] == (found[-1:] or [None])[0]:
            facts = run(small(), job(), stop_after=EVALUATION)  # an evaluation needs two batches
        found += facts
    assert rows(found) == rows(whole)
    assert_same_state(folder, job().run_dir)


def test_the_same_recipe_and_seed_give_the_same_metrics_and_another_seed_others(job):
    short = {"train": {"epochs": 1, "lr": 0.05}}
    facts = [rows(run(small(**short, seed=seed), job(f"{i}"))) for i, seed in enumerate((0, 0, 1))]
    assert facts[0] == facts[1]
    assert facts[0] != facts[2]


def test_metric_keys_are_unique_and_steps_never_fall(uninterrupted):
    found = [one for one in uninterrupted[1] if isinstance(one, Metric)]
    keys = [(one.name, one.split, one.step) for one in found]
    assert len(keys) == len(set(keys))
    assert all(a.step <= b.step for a, b in pairwise(found))
    names = {(one.name, one.split) for one in found}
    assert names >= {("loss", "train"), ("top1", "train"), ("lr", "train"), ("epoch_loss", "train")}
    split = uninterrupted[1][-1].split  # a result and its metrics say the same
    assert split == "test"
    assert names >= {("loss", split), ("top1", split), ("top5", split)}


def test_the_result_counts_the_evaluation_split_once(uninterrupted):
    result = uninterrupted[1][-1]
    last, best = result.evaluations
    assert (last.selection, best.selection) == ("last", "best")
    assert [last.headline, best.headline] == [True, False]
    assert last.n_total == EVAL_IMAGES
    assert best.n_correct >= last.n_correct
    assert (result.method, result.first_last_bits, result.split) == ("lsq", "w8a8", "test")
    assert result.params == 1_362
    assert result.deterministic == "bitwise"


def _without_cursor(parts):
    parts["state"] = parts["state"] | {"cursor": parts["state"]["cursor"] | {"batch": 0}}


def _without_momentum(parts):
    parts["training"] = parts["training"] | {
        "optimizer": parts["training"]["optimizer"] | {"state": {}}
    }


def _without_random(parts):
    other = torch.Generator().manual_seed(99).get_state()
    parts["training"] = parts["training"] | {"random": {"torch": other, "cuda": []}}


@pytest.mark.parametrize("change", [_without_cursor, _without_momentum])
def test_dropping_part_of_the_state_is_seen(uninterrupted, job, change):
    first = run(small(), job(), stop_after=3)
    rewritten(change)(job().run_dir)
    assert rows(first) + rows(run(small(), job())) != rows(uninterrupted[1])


def test_a_net_with_dropout_resumes_exactly_and_not_without_its_random_states(job):
    recipe = small(
        model={"name": "small_dropout_resnet"},
        quant=dict.fromkeys(small().quant.model_fields_set, 32),
        train={"epochs": 1},
    )
    whole = run(recipe, job("whole"))
    for name, drop in (("kept", False), ("dropped", True)):
        first = run(recipe, job(name), stop_after=1)
        if drop:
            rewritten(_without_random)(job(name).run_dir)
        second = run(recipe, job(name))
        assert (rows(first) + rows(second) == rows(whole)) is not drop


def test_nothing_depends_on_when_checkpoints_are_written(uninterrupted, job):
    folder, whole = uninterrupted
    facts = run(small(), job(checkpoint_seconds=0.0))
    assert sum(isinstance(one, Checkpoint) for one in facts) == 1 + 2 * STEPS
    assert rows(facts) == rows(whole)
    assert_same_state(folder, job().run_dir)


def test_a_finished_run_that_is_started_again_only_repeats_its_result(uninterrupted):
    from lsqctl.training import ExecutionContext

    folder, whole = uninterrupted
    again = run(small(), ExecutionContext(run_dir=folder, data_dir=folder))
    assert rows(again) == []
    assert plain(again[-1]) == plain(whole[-1])


def test_a_damaged_checkpoint_is_passed_over_with_a_note_and_the_numbers_are_the_same(
    uninterrupted, job
):
    first = run(small(), job(checkpoint_seconds=0.0), stop_after=4)
    newest = first[-1].directory / "model.pt"
    newest.write_bytes(newest.read_bytes()[:-7])
    second = run(small(), job())
    assert any(isinstance(one, LogMessage) and str(newest) in one.text for one in second)
    known = [one for one in rows(first) if one.step <= second[0].step]
    assert known + rows(second) == rows(uninterrupted[1])


def test_a_quantized_run_starts_from_its_parent_and_counts_the_full_precision_start(job):
    bits = dict.fromkeys(small().quant.model_fields_set, 32)
    parent = run(small(quant=bits, train={"epochs": 3, "lr": 0.1}), job("parent"))
    checkpoint = [one for one in parent if isinstance(one, Checkpoint)][-1]
    inputs = {"model.weights": checkpoint.directory, "distill.teacher": checkpoint.directory}
    recipe = small(
        model={"weights": {"run": "parent"}},
        distill={"teacher": {"run": "parent"}},
        train={"epochs": 1, "lr": 0.01},
    )
    whole = run(recipe, job("child", inputs=inputs))
    right = parent[-1].evaluations[0].n_correct
    assert whole[-1].fp32_n_correct == right
    assert whole[-1].fp32_n_total == EVAL_IMAGES
    assert whole[-1].method == "lsq+kd"

    first = run(recipe, job("cut", inputs=inputs), stop_after=2 + 2)  # the start asks twice
    second = run(recipe, job("cut", inputs=inputs))
    assert rows(first) + rows(second) == rows(whole)
    assert second[-1].fp32_n_correct == right

    only = small(quant=bits, model={"weights": {"run": "parent"}}, train={"epochs": 0})
    result = run(only, job("only", inputs={"model.weights": checkpoint.directory}))[-1]
    assert [(one.n_correct, one.headline) for one in result.evaluations] == [(right, True)]


def test_divergence_names_epoch_step_and_layer_and_leaves_a_finite_checkpoint(job):
    float_bits = dict.fromkeys(small().quant.model_fields_set, 32)
    recipe = small(
        quant=float_bits,
        data={"batch_size": 32},
        train={"epochs": 1, "lr": 1000.0, "weight_decay": 1.0},
    )
    with pytest.raises(Diverged, match=r"epoch 1, step [1-9].*first in layer") as error:
        list(finetune(recipe, job()))
    assert "lower train.lr" in str(error.value)
    state = resume_point(job().run_dir)[0]
    assert state.step == 0
    assert all(torch.isfinite(one).all() for one in state.model.values())


def test_checkpoints_of_another_recipe_are_refused(job):
    run(small(), job(), stop_after=0)
    with pytest.raises(DataError, match="another recipe or seed"):
        run(small(seed=1), job())


def test_another_thread_count_is_noted_and_no_longer_called_bitwise(job):
    run(small(train={"epochs": 1}), job(threads=2), stop_after=0)
    facts = run(small(train={"epochs": 1}), job(threads=1))
    assert any("threads 2 → 1" in one.text for one in facts if isinstance(one, LogMessage))
    assert facts[-1].deterministic == "statistical"


def test_a_checkpoint_gives_the_model_back_with_the_same_answers(uninterrupted):
    import numpy as np

    from lsqctl.datasets.digits import read_digits
    from lsqctl.training.restore import restore_model

    _, whole = uninterrupted
    checkpoint = [one for one in whole if isinstance(one, Checkpoint)][-1]
    model = restore_model(small(), checkpoint.directory)
    pixels, labels = (part[::4] for part in read_digits()[1])
    images = torch.from_numpy(pixels).float().div(255).sub(0.3053).div(0.3761)
    hits = (model(images).argmax(1) == torch.from_numpy(labels)).numpy()
    assert np.packbits(hits).tobytes() == whole[-1].evaluations[0].hits
