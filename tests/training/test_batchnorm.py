"""Running statistics stand still where the recipe says so, and are estimated again by the book."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsqctl.errors import UsageError
from lsqctl.events import Checkpoint
from lsqctl.training.checkpoint import load_model_state
from lsqctl.training.evaluation import batchnorms, freeze_bn, reestimate_bn

from .attempts import run
from .conftest import session_of, tiny


def test_frozen_norms_use_and_keep_their_statistics_while_gain_and_bias_learn():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    norm.running_mean += 5
    model = nn.Sequential(norm).train()
    freeze_bn(model)
    x = torch.randn(8, 3, 4, 4)
    out = model(x)
    torch.testing.assert_close(out, (x - 5) / (1 + norm.eps) ** 0.5)
    out.square().mean().backward()
    assert torch.equal(norm.running_mean, torch.full((3,), 5.0))
    assert norm.weight.grad.abs().min() > 0
    model.train()
    assert norm.training


def test_a_run_freezes_its_statistics_in_the_last_epochs_only(job):
    recipe = tiny(train={"epochs": 3, "lr": 0.05, "bn_freeze_epochs": 2})
    saved = [one for one in run(recipe, job()) if isinstance(one, Checkpoint)]
    assert [one.step for one in saved] == [0, 6, 12, 18]
    second, third = (load_model_state(one.directory) for one in saved[2:])  # what is kept
    for name in ("bn1.running_mean", "bn1.running_var"):
        assert torch.equal(second[name], third[name])
    assert not torch.equal(second["bn1.weight"], third["bn1.weight"])
    assert third["bn1.num_batches_tracked"] == 6


def test_estimated_statistics_are_the_mean_over_batches_drawn_without_dropout():
    torch.manual_seed(0)
    inner = nn.BatchNorm1d(3, momentum=0.3)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9), inner).train()
    batches = list(torch.randn(5, 16, 4))
    random = torch.get_rng_state()
    found = reestimate_bn(model, batches)
    assert torch.equal(torch.get_rng_state(), random)
    outputs = [model[0](batch) for batch in batches]
    mean = torch.stack([out.mean(0) for out in outputs]).mean(0)
    variance = torch.stack([out.var(0) for out in outputs]).mean(0)
    torch.testing.assert_close(found[2].running_mean, mean)
    torch.testing.assert_close(found[2].running_var, variance)
    assert (found[2].momentum, found.training, found[2].training) == (0.3, False, False)
    assert torch.equal(inner.running_mean, torch.zeros(3)), "the model itself is left as it was"
    assert model.training


def test_the_images_for_it_are_the_seeds_own_shuffled_whole_batches(job):
    feed = session_of(tiny(data={"batch_size": 48}), job()).pipeline
    batches = list(feed.reestimation_batches(200))
    assert [len(batch) for batch in batches] == [48] * 4
    assert torch.equal(torch.cat(batches), torch.cat(list(feed.reestimation_batches(200))))
    other = session_of(tiny(seed=1, data={"batch_size": 48}), job()).pipeline
    assert not torch.equal(batches[0], next(other.reestimation_batches(200)))
    assert not torch.equal(batches[0], next(feed.calibration_batches(48))), (
        "not those of the calibration"
    )
    assert [len(batch) for batch in feed.reestimation_batches(20)] == [20]


def test_estimating_again_needs_a_net_with_batch_norm(job):
    recipe = tiny(
        model={"name": "squeezenet1_1"},
        quant=dict.fromkeys(tiny().quant.model_fields_set, 32),
        train={"bn_reestimate_images": 100},
    )
    with pytest.raises(UsageError, match="squeezenet1_1 has no batch norm"):
        session_of(recipe, job())


def test_norms_without_running_statistics_are_left_alone():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False))
    assert list(batchnorms(model)) == ["0"]
