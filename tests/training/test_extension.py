"""A run that goes on from a finished one: exact wherever it is cut, and what it keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lsqctl.errors import DataError
from lsqctl.events import Checkpoint, Metric, Resumed
from lsqctl.training.checkpoint import read_checkpoint

from .attempts import assert_same_state, plain, rows, run
from .conftest import tiny

TRAIN = {"epochs": 1, "lr": 0.05, "ema_decay": 0.9}
STEPS = 6  # an epoch


def extension(**train):
    return tiny(train=TRAIN | {"epochs": 3} | train, extension={"run": "parent"})


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Path:
    """The last checkpoint of a run of one epoch."""
    from lsqctl.training import ExecutionContext

    folder = tmp_path_factory.mktemp("parent")
    facts = run(tiny(train=TRAIN), ExecutionContext(run_dir=folder, data_dir=folder))
    return [one for one in facts if isinstance(one, Checkpoint)][-1].directory


@pytest.fixture
def extends(job, parent):
    def make(name: str = "run", **changes):
        return job(name, inputs={"extension.run": parent}, **changes)

    return make


def series(facts, name):
    return [one for one in facts if isinstance(one, Metric) and one.name == name]


def test_extending_in_two_attempts_is_extending_in_one_to_the_bit(extends):
    whole = run(extension(), extends("whole"))
    found, stopped_at = [], []
    for stop_after in (
        3,
        8,
    ):  # within the first new epoch, and in the next attempt at its own place
        facts = run(extension(), extends("cut"), stop_after=stop_after)
        stopped_at.append(facts[-1].step)
        found += facts
    found += run(extension(), extends("cut"))
    assert STEPS < stopped_at[0] < stopped_at[1] < 3 * STEPS
    assert next(one for one in found if isinstance(one, Resumed)).step is None
    assert rows(found) == rows(whole)
    assert plain(found[-1]) == plain(whole[-1])
    assert_same_state(extends("whole").run_dir, extends("cut").run_dir)


@pytest.mark.slow
def test_steps_optimizer_averages_and_step_sizes_are_kept(extends, parent):
    job = extends()
    facts = run(extension(), job)
    first = next(one for one in facts if isinstance(one, Checkpoint))
    assert (first.step, first.epoch) == (STEPS, 1)
    assert [one.step for one in series(facts, "epoch_loss")] == [2 * STEPS, 3 * STEPS]
    assert facts[-1].epochs == 3
    assert "goes on from run parent after epoch 1" in facts[-1].notes
    assert {one.step for one in facts[-1].evaluations} <= {2 * STEPS, 3 * STEPS}
    with pytest.MonkeyPatch.context() as patch:  # its first checkpoint, before it is replaced
        patch.setattr("lsqctl.training.session.remove_checkpoints", lambda folders: None)
        other = extends("kept")
        run(extension(), other, stop_after=0)
    before, after = read_checkpoint(parent), read_checkpoint(other.run_dir / first.directory.name)
    for part in ("model", "training"):
        one, new = getattr(before, part), getattr(after, part)
        tensors = [(one[key], new[key]) for key in one if isinstance(one[key], torch.Tensor)]
        assert all(torch.equal(old, now) for old, now in tensors)
    momentum = [s["momentum_buffer"] for s in after.training["optimizer"]["state"].values()]
    expected = [s["momentum_buffer"] for s in before.training["optimizer"]["state"].values()]
    assert all(torch.equal(one, other) for one, other in zip(momentum, expected, strict=True))
    assert before.training["ema"].keys() == after.training["ema"].keys()


@pytest.mark.slow
def test_the_schedule_begins_anew_and_the_learning_rate_is_the_new_recipes(extends):
    rates = [one.value for one in series(run(extension(), extends("restart")), "lr")]
    assert rates[0] == pytest.approx(0.05 * 0.5, rel=0.3)  # half way down the new cosine
    assert rates[1] < 0.002
    constant = extension(schedule="constant", lr=0.01)
    rates = [one.value for one in series(run(constant, extends("constant")), "lr")]
    assert rates == pytest.approx([0.01, 0.01])


def test_what_is_no_end_of_a_training_or_of_other_images_is_refused(extends, parent, monkeypatch):
    with pytest.raises(DataError, match="no end of a training that 1 epochs in all would extend"):
        run(extension(epochs=1), extends())
    content = read_checkpoint(parent)
    other = replace(content, state={**content.state, "data": "sha256:other"})
    monkeypatch.setattr("lsqctl.training.beginning.read_checkpoint", lambda folder: other)
    with pytest.raises(DataError, match="is not what step 6 was trained on: its digest"):
        run(extension(), extends())


def test_a_run_of_no_epochs_is_extended_and_its_averages_begin_with_its_weights(job):
    untrained = run(tiny(train=TRAIN | {"epochs": 0}), job("untrained"))
    start = next(one for one in untrained if isinstance(one, Checkpoint)).directory
    facts = run(extension(epochs=1), job("grown", inputs={"extension.run": start}))
    assert facts[-1].epochs == 1
    assert (
        "ema"
        in read_checkpoint(
            [one for one in facts if isinstance(one, Checkpoint)][-1].directory
        ).training
    )


def test_statistics_that_the_parent_estimated_are_not_those_of_the_run_that_goes_on(job):
    """They belong to weights that are no more, until the new end estimates them again."""
    train = {"epochs": 1, "lr": 0.05, "bn_reestimate_images": 120, "headline_variant": "bn"}
    ended = run(tiny(train=train), job("ended"))
    end = [one for one in ended if isinstance(one, Checkpoint)][-1].directory
    assert "bn" in read_checkpoint(end).training
    longer = tiny(train=train | {"epochs": 3}, extension={"run": "parent"})
    cut = run(longer, job("cut", inputs={"extension.run": end}), stop_after=3)
    assert "bn" not in read_checkpoint(cut[-1].directory).training
